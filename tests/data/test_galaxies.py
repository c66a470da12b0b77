"""Batches of galaxies, and the description of a set."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from galaxysd.data.galaxies import Frame, Galaxies
from galaxysd.errors import BadInput


def test_a_frame_goes_through_json(flux: Frame, rgb: Frame) -> None:
    for frame in (flux, rgb):
        assert Frame.from_json(json.loads(json.dumps(frame.to_json()))) == frame


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "flx"}, "'flx'; did you mean flux"),
        ({"size": 10**9}, "size of a set's images: 1000000000"),
        ({"size": "8"}, "size of a set's images: '8'"),
        ({"bands": []}, "bands of a set"),
        ({"bands": "gri"}, "bands 'gri' is not a list"),
        ({"sky_rms": [0.1]}, "sky_rms of a set: .*3 bands"),
        ({"zero_points": [22.5, 22.5, float("nan")]}, "zero_points of a set"),
        ({"pixel_scale": 0.0}, "pixel_scale of a set: 0.0"),
        ({"colour": 1}, "unknown field 'colour'"),
    ],
)
def test_an_impossible_frame_is_refused(flux: Frame, change: dict[str, Any], words: str) -> None:
    value = json.loads(json.dumps(flux.to_json())) | change
    with pytest.raises(BadInput, match=words):
        Frame.from_json(value)


def test_a_frame_needs_its_fields() -> None:
    with pytest.raises(BadInput, match="kind and size are needed"):
        Frame.from_json({"kind": "flux"})


def test_rows_and_joined_undo_each_other(make: Any) -> None:
    whole = make(9)
    whole.extra = {"note": [f"n{i}" for i in range(9)]}
    parts = [whole.rows(torch.tensor(pick)) for pick in ([3, 1], [0], [8, 2, 4, 5, 6, 7])]
    joined = Galaxies.joined(parts)
    back = joined.rows(torch.argsort(joined.index))
    assert (back.ids, back.extra) == (whole.ids, whole.extra)
    assert torch.equal(back.images, whole.images)
    assert torch.equal(back.counts, whole.counts)


def test_different_columns_do_not_join(make: Any) -> None:
    other = make(2)
    other.extra = {"note": ["a", "b"]}
    with pytest.raises(BadInput, match="cannot join"):
        Galaxies.joined([make(2), other])
