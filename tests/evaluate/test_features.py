from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from galaxysd.data.galaxies import Frame, Galaxies
from galaxysd.data.transforms import symmetry
from galaxysd.errors import BadInput
from galaxysd.evaluate import features
from galaxysd.evaluate.features import InMemory, coarse, comparable, describe, pick, unshared

NAMES = ("SET", "DATA")


def test_a_limit_takes_a_seeded_sample_from_all_of_a_sorted_set() -> None:
    chosen = [rows.tolist() for rows in pick([40, 5, 55], 30, 0)]
    assert sum(len(rows) for rows in chosen) == 30
    assert all(chosen)
    assert all(rows == sorted(set(rows)) for rows in chosen)
    assert max(chosen[0]) < 40
    assert max(chosen[1]) < 5
    assert max(chosen[2]) < 55
    assert chosen == [rows.tolist() for rows in pick([40, 5, 55], 30, 0)] != [rows.tolist() for rows in pick([40, 5, 55], 30, 1)]
    assert [len(rows) for rows in pick([40, 5, 55], None, 0)] == [40, 5, 55]


def test_rows_keep_their_labels_through_chunks(survey: Callable[..., Galaxies], frame: Frame, monkeypatch: pytest.MonkeyPatch) -> None:
    galaxies = survey(20, 0)
    soft = features.softening(InMemory(galaxies, frame))
    whole = describe(InMemory(galaxies, frame), soft)
    monkeypatch.setattr(features, "CHUNK", 7)
    pieces = describe(InMemory(galaxies, frame), soft)
    assert pieces.ids == whole.ids == galaxies.ids
    assert torch.equal(pieces.counts, galaxies.counts)
    assert torch.equal(pieces.pixels, whole.pixels)
    assert torch.allclose(pieces.properties["r50"], whole.properties["r50"], rtol=1e-5)
    assert pieces.fractions is None
    assert pieces.embedding is None


def test_softening_is_the_noise_of_the_sky(survey: Callable[..., Galaxies], frame: Frame) -> None:
    assert features.softening(InMemory(survey(40, 0), frame)).tolist() == pytest.approx([0.02] * 3, rel=0.2)


def test_coarse_pixels_turn_with_the_image(survey: Callable[..., Galaxies], frame: Frame) -> None:
    images, soft, code = survey(8, 0).images, torch.full((3,), 0.02), torch.arange(8)
    assert torch.allclose(coarse(symmetry(images, code), frame, soft), symmetry(coarse(images, frame, soft), code), atol=1e-5)


def test_sets_of_different_frames_are_refused(frame: Frame) -> None:
    comparable(frame, replace(frame, sky_rms=(1.0, 1.0, 1.0)), NAMES)
    with pytest.raises(BadInput, match="kind is flux in SET and rgb in DATA"):
        comparable(frame, Frame("rgb", 32), NAMES)
    with pytest.raises(BadInput, match=r"pixel_scale is 0\.8 in SET and 0\.4 in DATA"):
        comparable(frame, replace(frame, pixel_scale=0.4), NAMES)
    with pytest.raises(BadInput, match=r"bands is .*'g', 'r', 'i'.* in SET and .*'g', 'r', 'z'"):
        comparable(frame, replace(frame, bands=("g", "r", "z")), NAMES)


def test_shared_galaxies_are_refused() -> None:
    unshared(["a", "b"], ["c"], NAMES)
    with pytest.raises(BadInput, match=r"1 ids are in both SET and DATA \('b' first\)"):
        unshared(["a", "b"], ["c", "b"], NAMES)
