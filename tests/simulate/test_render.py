"""Pixels: flux against closed forms, the point spread function against its profile, edges, noise and seed streams."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import pytest
import torch

from galaxysd.simulate import render
from galaxysd.simulate.latents import IRREGULAR, SPHEROID, Latents
from galaxysd.simulate.recipe import draw


def spheroid(index: float = 2.0, ratio: float = 0.7, radius: float = 2.0, magnitude: float = 15.0) -> Latents:
    """One plain Sersic galaxy of colour 0, at an odd place and angle, and nothing beside it."""
    host = draw("survey", 0, [0])
    empty = {each.name: torch.zeros_like(getattr(host, each.name)) for each in fields(Latents) if each.name.endswith(("_share", "_flux"))}
    return replace(
        host,
        **empty
        | {
            "kind": torch.tensor([SPHEROID]),
            "magnitude": torch.tensor([magnitude]),
            "centre": torch.tensor([[0.13, -0.21]]),
            "angle": torch.tensor([0.4]),
            "core_share": torch.ones(1),
            "core_radius": torch.tensor([radius]),
            "core_sersic": torch.tensor([index]),
            "core_ratio": torch.tensor([ratio]),
            "core_boxy": torch.tensor([2.0]),
            "texture": torch.zeros(1),
            "lane_depth": torch.zeros(1),
            "warp": torch.zeros(1, 3),
            "colours": torch.ones(1, 4, 3),
        },
    )


def star(x: float, y: float, flux: float = 1000.0) -> Latents:
    """A star alone."""
    empty = replace(spheroid(), core_share=torch.zeros(1))
    place, light = torch.zeros_like(empty.star_place), torch.zeros_like(empty.star_flux)
    place[0, 0], light[0, 0] = torch.tensor([x, y]), flux
    return replace(empty, star_place=place, star_flux=light)


def enclosed(lat: Latents, half: float) -> float:
    """The share of a Sersic galaxy's light inside a square of half-width `half` about its centre, by quadrature."""
    index, ratio, radius = float(lat.core_sersic), float(lat.core_ratio), float(lat.core_radius)
    b = 2 * index - 1 / 3 + 4 / (405 * index) + 46 / (25515 * index**2)
    theta = torch.linspace(0, 2 * math.pi, 2001, dtype=torch.float64)[:-1]
    edge = half / torch.maximum(theta.cos().abs(), theta.sin().abs())
    turned = theta - float(lat.angle)
    stretch = torch.sqrt(turned.cos() ** 2 + (turned.sin() / ratio) ** 2)
    inside = torch.special.gammainc(torch.tensor(2 * index, dtype=torch.float64), b * (edge * stretch / radius) ** (1 / index))
    return float((inside / stretch**2).mean() / ratio)


@pytest.mark.parametrize("ratio", [0.4, 0.8])
@pytest.mark.parametrize("index", [1.0, 2.0, 3.0, 4.0])
def test_total_flux_is_that_of_the_magnitude(index, ratio):
    lat = spheroid(index, ratio)
    flux = render.clean(lat, 128, 0.8, 0)[0]
    want = 1000.0 * enclosed(lat, 51.2)
    assert flux.double().sum((1, 2)).tolist() == pytest.approx([want] * 3, rel=0.01)


@pytest.mark.parametrize(("index", "ratio", "worst"), [(1.0, 0.8, 0.005), (2.0, 0.4, 0.01), (4.0, 0.8, 0.01)])
def test_pixels_agree_with_an_eight_times_finer_rendering(index, ratio, worst):
    lat = spheroid(index, ratio, 3.0)
    coarse = render.clean(lat, 64, 0.625, 0)[0]
    fine = torch.nn.functional.avg_pool2d(render.clean(lat, 512, 0.625 / 8, 0)[0], 8) * 64
    assert float((coarse - fine).abs().max() / fine.max()) < worst


def test_moffat_transfer_is_the_transform_of_the_profile():
    """Against a Hankel transform by quadrature, J0 by its own integral."""
    fwhm = 1.3
    alpha = fwhm * render.MOFFAT_ALPHA
    r = torch.exp(torch.linspace(math.log(1e-4), math.log(2000), 6000, dtype=torch.float64))
    profile = 2.5 / (math.pi * alpha**2) * (1 + (r / alpha) ** 2) ** -3.5
    assert float(2 ** (1 / 3.5) - 1 - (fwhm / 2 / alpha) ** 2) == pytest.approx(0, abs=1e-12)  # half the peak at half the width
    angle = (torch.arange(512, dtype=torch.float64) + 0.5) * (math.pi / 512)
    for k in (0.0, 0.1, 0.3, 0.6):
        bessel = torch.cos(2 * math.pi * k * r[:, None] * torch.cos(angle)).mean(1)
        # Beyond r = 40 the quadrature of J0 is too coarse for its oscillation, and 1e-6 of the light is left.
        value = torch.where(r < 40, 2 * math.pi * r**2 * profile * bessel, 0.0)
        want = float(torch.trapezoid(value, torch.log(r)))
        found = float(render.moffat_transfer(torch.tensor(k, dtype=torch.float64), torch.tensor(fwhm, dtype=torch.float64)))
        assert found == pytest.approx(want, abs=2e-5)


def test_a_star_is_a_moffat_profile():
    lat = star(0.4, 0.4)  # the middle of a pixel
    flux = render.clean(lat, 64, 0.8, 0)[0, 1]
    assert float(flux.sum()) == pytest.approx(1000, rel=2e-3)
    alpha = float(lat.seeing) * render.MOFFAT_ALPHA
    fine = (torch.arange(9) - 4) * (0.8 / 9)
    for columns in (0, 2, 4):
        x, y = fine[None, :] + 0.8 * columns, fine[:, None]
        want = 1000 * 0.64 * float((2.5 / (math.pi * alpha**2) * (1 + (x**2 + y**2) / alpha**2) ** -3.5).mean())
        assert float(flux[32, 32 + columns]) == pytest.approx(want, abs=0.01 * float(flux.max()))


def test_nothing_comes_round_the_edge():
    """A bright star at the left edge is a thousand times fainter than the sky's noise at the right one."""
    flux = render.clean(star(-25.4, 3.0, 2000.0), 64, 0.8, 0)[0]
    assert float(flux[1, :, 0].max()) > 50
    assert float(flux[:, :, 40:].abs().max()) < 0.05 * render.SDSS.sky_rms(0.8)[0]


def test_light_from_just_outside_is_blurred_in():
    inside, outside = (render.clean(star(x, 0.0, 1000.0), 64, 0.8, 0)[0, 1] for x in (-26.0, -40.0))
    assert float(inside[:, 0].max()) > 1
    assert float(outside.abs().max()) == 0


def test_sky_noise_is_that_of_the_frame():
    lat = replace(spheroid(magnitude=99.0), sky=torch.full((1,), 1.2))
    noise = torch.cat(
        [render.noisy(torch.zeros(1, 3, 128, 128), replace(lat, index=torch.tensor([i])), render.Optics.of(lat, 0.8), 0) for i in range(8)]
    )
    want = [1.2 * rms * 0.8 / 0.396 for rms in (0.018, 0.024, 0.036)]
    assert noise.std((0, 2, 3)).tolist() == pytest.approx(want, rel=0.02)
    assert float(noise.mean().abs()) < 0.002


def test_photon_noise_grows_with_the_light():
    flux = torch.full((1, 3, 256, 256), 20.0)
    lat = replace(spheroid(), sky=torch.ones(1))
    noise = render.noisy(flux, lat, render.Optics.of(lat, 0.396), 0) - flux
    want = [math.sqrt(rms**2 + 20 / gain) for rms, gain in zip((0.018, 0.024, 0.036), (1050, 900, 700), strict=True)]
    assert noise.std((0, 2, 3)).tolist() == pytest.approx(want, rel=0.02)


def test_a_lane_reddens_and_a_twin_without_it_is_else_the_same():
    host = spheroid(2.0, 0.7, 4.0)
    laned = replace(
        host,
        lane_depth=torch.tensor([3.0]),
        lane_width=torch.tensor([0.8]),
        lane_length=torch.tensor([5.0]),
        lane_angle=torch.zeros(1),
        lane_offset=torch.zeros(1, 2),
    )
    plain, dusty = (render.clean(lat, 64, 0.625, 0)[0] for lat in (host, laned))
    through = dusty[:, 32, 32] / plain[:, 32, 32]
    assert float(through[0]) < float(through[1]) < float(through[2]) < 0.8
    assert torch.allclose(dusty[:, 60, 10], plain[:, 60, 10], rtol=0.02)


def test_patches_have_their_own_stream():
    """Another seed for the texture changes the arms, and not the galaxies without any."""
    lat = draw("tutorial", 0, range(32))
    one, other = render.clean(lat, 32, 1.25, 0), render.clean(lat, 32, 1.25, 1)
    changed = (one != other).flatten(1).any(1)
    young = (lat.kind == IRREGULAR) | (lat.arm_share > 0)
    assert torch.equal(changed, young)


@pytest.mark.parametrize("size", [17, 33])
def test_odd_sizes_are_centred(size):
    lat = replace(spheroid(), centre=torch.zeros(1, 2))
    flux = render.clean(lat, size, 0.8, 0)[0]
    assert torch.allclose(flux, flux.flip((1, 2)), rtol=1e-3, atol=1e-3)


@pytest.mark.gpu
def test_cuda_renders_the_same_galaxies():
    lat = draw("survey", 0, range(32))
    here, there = render.clean(lat, 64, 0.8, 0), render.clean(lat.to("cuda"), 64, 0.8, 0).cpu()
    assert float((here - there).abs().max() / here.max()) < 1e-4
