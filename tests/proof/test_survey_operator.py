"""The survey operator: flux conserved to 0.5 % between telescopes and pixels, point spread functions recovered to 2 %."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from galaxysd.simulate import recipe, render, telescopes
from galaxysd.simulate.latents import without
from galaxysd.simulate.recipe import Recipe, draw
from galaxysd.simulate.telescopes import TELESCOPES

pytestmark = pytest.mark.proof_survey

FIELD = 51.2
SIZES = {"sdss": (64, 128), "decals": (64, 160), "hsc": (96, 256), "lsst": (96, 256), "euclid-vis": (256, 512)}


def galaxies(n: int):
    """Small galaxies of every kind in the middle of a wide stamp, which holds nearly all of their light."""
    lat = draw(Recipe("atlas", fixed=recipe.fixed({"r90": 6.0})), 31, range(n))
    return without(lat.rows(torch.nonzero(lat.kind != 4)[:, 0]), ["field", "trail", "merger", "disturbed"])


@pytest.mark.parametrize("name", TELESCOPES)
def test_flux_is_conserved(name, tier, report):
    """Between two pixel scales of one telescope, and against SDSS in bands that both have."""
    lat = galaxies(tier("operator-galaxies"))
    sums = []
    for size in SIZES[name]:
        optics = render.Optics.of(lat, FIELD / size, telescopes.telescope(name))
        sums.append(render.clean(lat, size, FIELD / size, 31, optics).double().sum((2, 3)))
    between = (sums[0] / sums[1] - 1).abs()
    sdss = render.clean(lat, 128, FIELD / 128, 31, render.Optics.of(lat, FIELD / 128)).double().sum((2, 3))
    shared = [band for band in TELESCOPES[name].bands if band in "gri"]
    across = torch.zeros(1)
    if shared:
        mine, theirs = [TELESCOPES[name].bands.index(each) for each in shared], ["gri".index(each) for each in shared]
        across = (sums[1][:, mine] / sdss[:, theirs] - 1).abs()
    report(f"{name}: largest change of flux between pixels of {FIELD / SIZES[name][0]:.3g} and {FIELD / SIZES[name][1]:.3g} arcsec",
           float(between.max()), n=len(lat))  # fmt: skip
    report(f"{name}: median change of flux between those pixels", float(between.median()), n=len(lat))
    report(f"{name}: largest change of flux against SDSS, bands {' '.join(shared) or 'none'}", float(across.max()), n=len(lat))
    assert float(between.max()) < 0.005
    assert float(across.max()) < 0.005


@pytest.mark.parametrize("name", TELESCOPES)
def test_the_point_spread_function_is_the_one_asked_for(name, report):
    """The width of a star, by the Moffat profile whose image through square pixels fits it best."""
    through = telescopes.telescope(name)
    lat = draw("survey", 0, [0])
    zero = {each: torch.zeros_like(getattr(lat, each)) for each in vars(lat) if each.endswith(("_share", "_flux"))}
    place, flux = torch.zeros_like(lat.star_place), torch.zeros_like(lat.star_flux)
    place[0, 0], flux[0, 0] = torch.tensor([0.013, -0.021]), 1000.0
    lat = replace(lat, **zero | {"star_place": place, "star_flux": flux, "seeing": torch.tensor([render.SEEING])})
    size, pixel = 48, through.pixel
    image = render.clean(lat, size, pixel, 0, render.Optics.of(lat, pixel, through))[0].double()
    for band, fwhm in enumerate(through.fwhm):
        grid = torch.linspace(0.9, 1.1, 81, dtype=torch.float64) * fwhm
        star = image[band] / image[band].sum()
        errors = torch.stack([((pixelated(float(width), size, pixel, place[0, 0]) - star) ** 2).sum() for width in grid])
        found = float(grid[errors.argmin()])
        report(f"{name} {through.bands[band]}: FWHM recovered over the FWHM asked for", found / fwhm, n=1)
        assert found == pytest.approx(fwhm, rel=0.02)


def pixelated(fwhm: float, size: int, pixel: float, centre: torch.Tensor, fine: int = 15) -> torch.Tensor:
    """A Moffat star of beta 3.5 summed over square pixels, normalised in the stamp: by its profile, not by its transform."""
    alpha = fwhm / (2 * math.sqrt(2 ** (1 / 3.5) - 1))
    axis = (torch.arange(size * fine, dtype=torch.float64) - (size * fine - 1) / 2) * (pixel / fine)
    r2 = (axis[:, None] - float(centre[1])) ** 2 + (axis - float(centre[0])) ** 2
    star = torch.nn.functional.avg_pool2d(((1 + r2 / alpha**2) ** -3.5)[None, None], fine)[0, 0]
    return star / star.sum()
