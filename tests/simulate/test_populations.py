"""The two populations: their cuts and mixtures, and a galaxy that does not depend on who asks for it."""

from __future__ import annotations

import math
from dataclasses import fields

import pytest
import torch

from galaxysd.errors import BadInput, GalaxySDError
from galaxysd.simulate.latents import DISC, EDGE_ON, KINDS, STAR, Latents
from galaxysd.simulate.recipe import draw


@pytest.fixture(scope="module", params=["atlas", "survey", "tutorial"])
def drawn(request: pytest.FixtureRequest) -> tuple[str, Latents]:
    return request.param, draw(request.param, 0, range(2048))


def test_light_is_shared_out_in_full(drawn):
    _, lat = drawn
    # The host's light; a star has none, and a spiral's knots are beside it.
    total = lat.core_share + lat.disc_share + torch.where(lat.kind == DISC, 0.0, lat.clump_share)
    assert torch.allclose(total, torch.where(lat.kind == STAR, 0.0, 1.0), atol=1e-5)
    assert torch.allclose(lat.total_magnitude, lat.magnitude - 2.5 * torch.log10(1 + lat.added))
    for each in fields(Latents):
        assert bool(torch.isfinite(getattr(lat, each.name)).all()), each.name
        if each.name.endswith(("_share", "_radius", "_scale", "_width", "_weight", "_depth", "_flux")):
            assert bool((getattr(lat, each.name) >= 0).all()), each.name


def test_survey_is_magnitude_limited():
    lat = draw("survey", 0, range(4096))
    assert float(lat.magnitude.max()) < 17
    assert float(lat.r90.min()) >= 5.5
    assert float(lat.r90.max()) <= 20
    # Euclidean counts: one magnitude fainter, four times as many; the cut in size takes some of the faint.
    counts = [int(((lat.magnitude > m) & (lat.magnitude < m + 1)).sum()) for m in (15, 16)]
    assert 1.8 < counts[1] / counts[0] < 4.2
    red, blue = (-2.5 * torch.log10(lat.colours[:, plane, 0]).median() for plane in (0, 2))
    assert float(red) > float(blue) + 0.3
    spread = torch.stack([torch.cos(2 * lat.angle), torch.sin(2 * lat.angle)]).mean(1)
    assert float(spread.norm()) < 0.05  # no direction is preferred
    discs = (lat.kind == DISC) | (lat.kind == EDGE_ON)
    assert float(lat.cos_inclination[discs].mean()) == pytest.approx(0.5, abs=0.03)
    assert 0.02 < float(lat.redshift.median()) < 0.12


def test_tutorial_is_balanced_large_and_aligned():
    lat = draw("tutorial", 0, range(4096))
    share = torch.bincount(lat.kind, minlength=len(KINDS)) / len(lat)
    assert share.tolist() == pytest.approx([0.44, 0.16, 0.20, 0.20, 0.0], abs=0.03)
    assert float(lat.r90.min()) >= 8
    assert float(lat.r90.max()) <= 13
    assert float(torch.sin(lat.angle).abs().max()) < math.sin(0.2)


def test_galaxies_do_not_depend_on_who_asks():
    every = draw("survey", 9, range(100))
    some = draw("survey", 9, [77, 3, 3, 40])
    for each in fields(Latents):
        assert torch.equal(getattr(some, each.name), getattr(every, each.name)[[77, 3, 3, 40]]), each.name


def test_seeds_and_large_indices_differ():
    a, b = draw("survey", 0, [5]), draw("survey", 1, [5])
    far = draw("survey", 0, [5 + 2**40])
    assert len({float(each.magnitude) for each in (a, b, far)}) == 3


def test_unknown_preset_and_negative_index_are_refused():
    with pytest.raises(GalaxySDError, match="did you mean tutorial"):
        draw("tutoral", 0, [0])
    with pytest.raises(BadInput, match="index -3: galaxies are numbered from 0"):
        draw("survey", 0, [-3])
