from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from galaxysd import seeds
from galaxysd.data.galaxies import Frame
from galaxysd.evaluate import structure
from galaxysd.evaluate.morphology import measure

FLUX = Frame("flux", 64)
Draw = Callable[..., Tensor]


def test_a_symmetric_galaxy_has_no_asymmetry_wherever_its_centre_lies(gaussian: Draw) -> None:
    for centre in ((0.0, 0.0), (0.37, -1.22)):
        assert abs(float(measure(gaussian(sigma=4.0, axis_ratio=0.5, angle=0.7, centre=centre), FLUX)["asymmetry"])) < 0.01


def test_light_on_one_side_is_what_asymmetry_says(gaussian: Draw) -> None:
    """Each pixel of the lump is once where it is and once where its opposite is missing: twice its share of the light."""
    galaxy, lump = gaussian((100.0,), sigma=5.0), gaussian((4.0,), sigma=1.5, centre=(5.0, 0.0))
    light = (galaxy + lump)[:, 0]
    distance = torch.hypot(*torch.meshgrid(torch.arange(64) - 31.5, torch.arange(64) - 31.5, indexing="xy"))
    inside = (distance <= 14)[None]
    found = structure.asymmetry(light, torch.zeros(1, 2), inside, (distance > 20)[None])
    assert float(found) == pytest.approx(2 * 4.0 / float((light * inside).sum()), rel=0.02)


def test_noise_is_taken_out_of_asymmetry(gaussian: Draw) -> None:
    noise = 0.02 * seeds.normal(0, "structure", range(200), (3, 64, 64))
    found = measure(gaussian((100.0,) * 3, sigma=4.0) + noise, FLUX)["asymmetry"]
    assert abs(float(found.mean())) < 0.01


def test_gini_is_its_definition() -> None:
    values = seeds.uniform(0, "gini", range(3), (40,)).float()
    inside = torch.zeros(3, 40, dtype=torch.bool)
    inside[:, :30] = True
    for row in range(3):
        x = values[row, :30].double()
        apart = (x[:, None] - x[None]).abs().sum() / (2 * x.mean() * 30 * 29)
        assert float(structure.gini(values, inside)[row]) == pytest.approx(float(apart), rel=1e-6)
    one = torch.zeros(1, 40)
    one[0, 3] = 5.0
    assert float(structure.gini(one, inside[:1])) == pytest.approx(1.0)
    assert float(structure.gini(torch.ones(1, 40), inside[:1])) == pytest.approx(0.0, abs=1e-12)


def test_m20_of_a_gaussian(gaussian: Draw) -> None:
    """Within its R90 a Gaussian of width s has light 0.9; the brightest fifth of it lies within r^2 = -2 s^2 ln(1 - 0.18)."""
    inner, outer = -2 * math.log(1 - 0.18), -2 * math.log(1 - 0.9)

    def moment(square: float) -> float:  # of r^2 < square, in units of s^2
        return 2 - math.exp(-square / 2) * (2 + square)

    found = measure(gaussian(sigma=6.0), FLUX)["m20"]
    assert float(found) == pytest.approx(math.log10(moment(inner) / moment(outer)), abs=0.04)


def test_power_of_white_noise_is_flat_and_blur_empties_the_top(gaussian: Draw) -> None:
    noise = seeds.normal(0, "power", range(50), (64, 64)) + 10
    flat = torch.stack([column.mean() for column in structure.power(noise).values()])
    assert float(flat.max() - flat.min()) < 0.05
    assert float(flat.mean()) == pytest.approx(math.log10(64**2 / (64**2 * 10) ** 2), abs=0.05)
    sharp, soft = (structure.power(gaussian((1.0,), sigma=s)[:, 0]) for s in (1.5, 2.0))
    for name in ("power_0.06-0.12", "power_0.12-0.25"):
        assert float(soft[name]) < float(sharp[name]) - 0.05
    assert structure.power(torch.zeros(1, 64, 64))["power_0.25-0.5"].isnan().all()


def test_a_turned_galaxy_is_the_same_galaxy(gaussian: Draw) -> None:
    image = gaussian(sigma=4.0, axis_ratio=0.5, angle=0.7) + gaussian((0.5,) * 3, sigma=1.5, centre=(4.0, 5.0))
    one, other = measure(image, FLUX), measure(image.transpose(-1, -2).flip(-1), FLUX)
    for name in ("asymmetry", "gini", "m20", "power_0.06-0.12"):
        assert float(one[name]) == pytest.approx(float(other[name]), abs=2e-3), name
