"""Several sources read as one: every galaxy once, in place, and only of one kind."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from galaxysd.data.mixed import Labelled, Mixed, Repeated
from galaxysd.data.readers import Order, batches
from galaxysd.errors import BadInput
from tests import tiny


class Other(tiny.Blobs):
    """The same blobs under other names."""

    def load(self, k: int):
        galaxies = super().load(k)
        galaxies.ids = [f"other-{name}" for name in galaxies.ids]
        return galaxies

    def describe(self):
        return {"other": sum(self.chunk_rows)}


def test_chunks_stand_one_after_another():
    mixed = Mixed([tiny.Blobs(2, 16), Other(3, 4)])
    assert list(mixed.chunk_rows) == [16, 16, 4, 4, 4]
    assert mixed.load(1).ids == tiny.Blobs(2, 16).load(1).ids
    assert mixed.load(3).ids == Other(3, 4).load(1).ids
    assert torch.equal(mixed.load(4).images, Other(3, 4).load(2).images)
    assert mixed.describe() == {"mixed": [{"blobs": 32}, {"other": 12}]}
    assert mixed.frame == tiny.Blobs.frame


def test_an_epoch_holds_every_galaxy_once():
    mixed = Mixed([tiny.Blobs(2, 16), Other(3, 4)])
    stream = batches(mixed, Order.of(mixed, seed=1), 0, 11)
    seen = [name for _ in range(4) for name in next(stream).ids]
    wanted = [name for k in range(len(mixed.chunk_rows)) for name in mixed.load(k).ids]
    assert sorted(seen) == sorted(wanted)
    assert any(name.startswith("other") for name in seen[:22])


@pytest.mark.parametrize("change", [{"size": 16}, {"bands": ("u", "g", "r")}, {"kind": "rgb"}])
def test_what_differs_is_refused(change):
    other = tiny.Blobs()
    other.frame = dataclasses.replace(other.frame, **change)
    with pytest.raises(BadInput, match=r"sources to mix differ: \('flux', 8, .*; kind, size, bands and labels must be the same"):
        Mixed([tiny.Blobs(), other])


def test_pixel_scale_may_differ():
    """Populations seen at other distances are still one kind of image; a condition tells them apart."""
    other = tiny.Blobs()
    other.frame = dataclasses.replace(other.frame, pixel_scale=0.5)
    assert Mixed([tiny.Blobs(), other]).frame.pixel_scale == 1.0


def test_a_repeated_source_is_read_again():
    twice = Repeated(tiny.Blobs(3, 16), 2)
    assert list(twice.chunk_rows) == [16] * 6
    assert twice.load(4).ids == tiny.Blobs(3, 16).load(1).ids
    assert twice.describe() == {"blobs": 48, "times": 2}


def test_labels_of_a_wider_schema():
    source = tiny.Blobs(2, 16)
    wide = Labelled(source, "gz2+tidal-stream", {"tidal-stream_no": 40.0})
    assert wide.frame.labels.own == ("tidal-stream",)
    found, plain = wide.load(1), source.load(1)
    assert torch.equal(found.counts[:, :-2], plain.counts)
    assert found.counts[:, -2:].tolist() == [[0.0, 40.0]] * 16
    assert torch.equal(found.images, plain.images)
    assert wide.describe() == {"blobs": 32, "votes": {"tidal-stream_no": 40.0}}
    with pytest.raises(BadInput, match=r"labels of schema gz2\+tidal-stream under schema gz2: tidal-stream_yes is not among its answers"):
        Labelled(wide, "gz2", {})
