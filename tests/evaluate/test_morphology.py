from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from galaxysd import seeds
from galaxysd.data.galaxies import Frame
from galaxysd.evaluate import morphology
from galaxysd.evaluate.morphology import measure

FLUX = Frame("flux", 64)
Draw = Callable[..., Tensor]


@pytest.mark.parametrize("sigma", [2.0, 3.0, 5.0])
def test_a_round_gaussian_gives_its_own_numbers(gaussian: Draw, sigma: float) -> None:
    image = gaussian((5.0, 10.0, 20.0), sigma, centre=(0.7, -1.4)) + torch.tensor([0.3, -0.1, 0.0])[:, None, None]
    found = {name: float(value) for name, value in measure(image, FLUX).items()}
    assert [found[f"flux_{band}"] for band in "gri"] == pytest.approx([5.0, 10.0, 20.0], rel=2e-3)
    assert found["sky_g"] == pytest.approx(0.3, abs=1e-5)
    assert found["magnitude_r"] == pytest.approx(22.5 - 2.5, abs=2e-3)
    assert found["colour_g-r"] == pytest.approx(2.5 * math.log10(2), abs=4e-3)
    assert found["colour_r-i"] == pytest.approx(2.5 * math.log10(2), abs=4e-3)
    assert found["r50"] == pytest.approx(1.17741 * sigma, rel=0.01)
    assert found["r90"] == pytest.approx(2.14597 * sigma, rel=0.015)
    assert found["concentration"] == pytest.approx(2.14597 / 1.17741, rel=0.015)
    assert found["ellipticity"] < 0.002


@pytest.mark.parametrize(("axis_ratio", "angle"), [(0.4, 0.5), (0.7, 2.0)])
def test_shape_whatever_the_position_angle(gaussian: Draw, axis_ratio: float, angle: float) -> None:
    found = measure(gaussian(sigma=6.0, axis_ratio=axis_ratio, angle=angle, centre=(2.0, 1.0)), FLUX)
    assert float(found["ellipticity"]) == pytest.approx(1 - axis_ratio, abs=0.003)


def test_adaptive_moments_find_centre_and_covariance(gaussian: Draw) -> None:
    centre, covariance = morphology.adaptive_moments(gaussian((1.0,), sigma=4.0, axis_ratio=0.5, centre=(2.25, -3.5))[:, 0])
    assert centre[0].tolist() == pytest.approx([2.25, -3.5], abs=1e-3)
    assert covariance[0].flatten().tolist() == pytest.approx([16.0, 0.0, 0.0, 4.0], abs=0.02)


def test_sky_and_noise_of_a_bright_stamp(gaussian: Draw) -> None:
    noise = 0.05 * seeds.normal(0, "sky", range(64), (3, 64, 64)) + 0.2
    found = measure(gaussian((300.0,) * 3) + noise, FLUX)
    assert float(found["sky_r"].mean()) == pytest.approx(0.2, abs=0.001)
    assert float(found["noise_r"].mean()) == pytest.approx(0.05, rel=0.01)
    assert float(found["flux_r"].mean()) == pytest.approx(300.0, abs=5 * float(found["flux_r"].std()) / 8)
    assert float(found["r50"].mean()) == pytest.approx(1.1774 * 3, rel=0.02)


def test_what_cannot_be_measured_is_nan_and_nothing_else_is(gaussian: Draw) -> None:
    good, dark, broken = gaussian(), gaussian((-5.0, 10.0, 20.0)), gaussian()
    broken[0, 0, 5, 5] = torch.nan
    empty = torch.zeros_like(good)
    found = measure(torch.cat((good, dark, broken, empty)), FLUX)
    finite = {name: value.isfinite().tolist() for name, value in found.items()}
    assert all(row[0] for row in finite.values())
    assert finite["magnitude_g"] == [True, False, False, False]
    assert finite["flux_g"] == [True, True, False, True]
    assert finite["colour_g-r"] == [True, False, False, False]
    assert finite["r50"] == [True, True, False, False]
    assert not any(row[2] for row in finite.values())


def test_rows_do_not_depend_on_their_companions(gaussian: Draw) -> None:
    images = torch.cat([gaussian(sigma=s) for s in (2.0, 3.0, 4.0)])
    together, alone = measure(images, FLUX), measure(images[1:2], FLUX)
    for name, value in alone.items():
        assert float(together[name][1]) == pytest.approx(float(value), rel=1e-5, abs=1e-5)


def test_display_colour_has_sizes_but_no_flux(gaussian: Draw) -> None:
    picture = (gaussian((1.0,) * 3) * 200 / gaussian((1.0,) * 3).amax()).round().to(torch.uint8)
    found = measure(picture, Frame("rgb", 64))
    assert not any(name.split("_")[0] in ("flux", "magnitude", "colour") for name in found)
    assert float(found["r50"]) == pytest.approx(1.1774 * 3, rel=0.02)
    assert float(found["display_level"]) == pytest.approx(float(picture.float().mean() / 255))


def test_a_curve_that_falls_from_its_first_pixel_has_no_radius() -> None:
    """Next to no light in all, and a bright pixel in the middle: it alone holds every share many times over."""
    light = torch.zeros(1, 64, 64)
    light[0, 32, 32], light[0, 0, 0] = 100.0, -99.99
    assert morphology.radii(light, torch.full((1, 2), 0.5), (0.5, 0.9)).isnan().all()
