"""The renderer against GalSim: Sersic profiles and a bulge in a disc, through a Moffat point spread function and pixels.

GalSim gets the same half-light radius along the major axis, the same axis ratio, angle, place and FWHM, an untruncated profile, and
thresholds that a finer setting moves by less than 1e-4 of the peak. Each profile is seen at several places between pixels and angles.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from galaxysd import seeds

if TYPE_CHECKING:
    from galaxysd.simulate.latents import Latents

pytestmark = [
    pytest.mark.proof_survey,
    pytest.mark.skipif(importlib.util.find_spec("galsim") is None, reason="needs GalSim; `make proof-survey` installs it"),
]

SIZE = 64
MAGNITUDE, FLUX = 15.0, 1000.0  # nanomaggies
FWHM = 1.3
FLUX_ERROR, PEAK_ERROR = 0.005, 0.01
R_BAND = 1
FINE = {"folding_threshold": 2e-4, "maxk_threshold": 1e-4, "kvalue_accuracy": 1e-6, "maximum_fft_size": 16384}
FINER = FINE | {"folding_threshold": 1e-4, "maxk_threshold": 2e-5, "kvalue_accuracy": 1e-7}
# Half-light radius and pixel, arcsec: a galaxy well sampled, and one as the survey shows it.
SCALES = {"well sampled": (3.0, 0.625), "survey-like": (2.5, 0.8)}


def galaxies(kind: int, n: int, scale: float, **given: float) -> Latents:
    """The same galaxy at `n` places between pixels and angles, with these latents and nothing else that gives light or takes it."""
    from galaxysd.simulate.latents import Latents
    from galaxysd.simulate.recipe import draw

    host = draw("survey", 0, [0] * n)
    dark = ("_share", "_depth", "_flux")
    values = {each.name: torch.zeros_like(getattr(host, each.name)) for each in fields(Latents) if each.name.endswith(dark)}
    values |= {name: torch.zeros_like(getattr(host, name)) for name in ("texture", "warp")}
    place, turn = seeds.uniform(0, "galsim-places", range(n), (2,)).float(), seeds.uniform(0, "galsim-angles", range(n), ()).float()
    values |= {"kind": torch.full((n,), kind), "centre": (place - 0.5) * scale, "angle": math.pi * turn}
    values |= {"colours": torch.ones_like(host.colours), "core_boxy": torch.full((n,), 2.0)}
    numbers = {"magnitude": MAGNITUDE, "seeing": FWHM} | given
    return replace(host, **values | {name: torch.full((n,), value) for name, value in numbers.items()})


def ellipse(profile: Any, ratio: float, angle: float) -> Any:
    """A round GalSim profile squeezed to `ratio` at the same area, its major axis at `angle`."""
    import galsim

    return profile.shear(q=ratio, beta=angle * galsim.radians)


def sersic(index: float, half_light: float, ratio: float) -> Callable[[float], Any]:
    """GalSim's profile by angle; `half_light` lies along the major axis."""
    import galsim

    round_one = galsim.Sersic(index, half_light_radius=half_light * math.sqrt(ratio), trunc=0)
    return lambda angle: ellipse(round_one, ratio, angle)


@dataclass
class Errors:
    """The worst over the places a profile was seen at."""

    flux: float = 0.0  # relative, in the stamp
    peak: float = 0.0  # of a pixel, over the brightest pixel
    where: str = ""

    def add(self, ours: Tensor, theirs: Tensor, lat: Latents) -> None:
        flux = float(ours.sum() / theirs.sum()) - 1
        self.flux = max(self.flux, flux, key=abs)
        wrong = (ours - theirs) / theirs.max()
        if float(wrong.abs().max()) > self.peak:
            self.peak = float(wrong.abs().max())
            y, x = divmod(int(wrong.abs().argmax()), SIZE)
            place = ", ".join(f"{each:+.3f}" for each in lat.centre[0].tolist())
            self.where = f"{wrong[y, x]:+.3%} at pixel ({x}, {y}), centre ({place}) arcsec, angle {float(lat.angle):.3f}"


def compared(lat: Latents, profile: Callable[[float], Any], scale: float) -> Errors:
    from galaxysd.simulate import render

    found = Errors()
    images = render.clean(lat, SIZE, scale, 0)[:, R_BAND].double()
    for i, ours in enumerate(images):
        one = lat.rows(torch.tensor([i]))
        found.add(ours, drawn(profile(float(one.angle)) * FLUX, scale, (one.centre[0] / scale).tolist(), FINE), one)
    return found


def drawn(profile: Any, scale: float, offset: list[float], accuracy: dict[str, float]) -> Tensor:
    """GalSim's stamp of a profile through the point spread function and square pixels: float64 [SIZE, SIZE]."""
    import galsim

    settings = galsim.GSParams(**accuracy)
    seen = galsim.Convolve([profile, galsim.Moffat(beta=3.5, fwhm=FWHM, trunc=0)], gsparams=settings, propagate_gsparams=True)
    return torch.from_numpy(seen.drawImage(nx=SIZE, ny=SIZE, scale=scale, offset=offset, dtype=float, method="auto").array)


def judged(what: str, found: Errors, n: int, report: Callable[..., None]) -> None:
    report(f"{what}: flux in the stamp over GalSim's, less 1", found.flux, n=n)
    report(f"{what}: largest error over the peak", found.peak, n=n)
    assert abs(found.flux) <= FLUX_ERROR, found
    assert found.peak <= PEAK_ERROR, found


@pytest.mark.parametrize("ratio", [0.4, 0.8])
@pytest.mark.parametrize("index", [1.0, 2.0, 3.0, 4.0])
@pytest.mark.parametrize("sampling", SCALES)
def test_a_sersic_profile(sampling, index, ratio, tier, report):
    from galaxysd.simulate.latents import SPHEROID

    (half_light, scale), n = SCALES[sampling], tier("galsim-places")
    lat = galaxies(SPHEROID, n, scale, core_share=1.0, core_radius=half_light, core_sersic=index, core_ratio=ratio)
    found = compared(lat, sersic(index, half_light, ratio), scale)
    judged(f"Sersic n = {index:.0f}, axis ratio {ratio}, {sampling}", found, n, report)


@pytest.mark.parametrize("cos_inclination", [0.4, 0.8])
@pytest.mark.parametrize("sampling", SCALES)
def test_a_bulge_in_a_disc(sampling, cos_inclination, tier, report):
    """Three tenths of the light in a bulge, n = 3, the rest in an exponential disc: an ellipse of the renderer's ratio."""
    import galsim

    from galaxysd.simulate import render
    from galaxysd.simulate.latents import DISC

    (half_light, scale), n = SCALES[sampling], tier("galsim-places")
    bulge = {"core_share": 0.3, "core_radius": 0.4 * half_light, "core_sersic": 3.0, "core_ratio": 0.75}
    disc_scale = half_light / 1.67835
    lat = galaxies(DISC, n, scale, **bulge, disc_share=0.7, disc_scale=disc_scale, cos_inclination=cos_inclination)
    ratio = float(render.slant(lat)[0])
    inner, outer = sersic(3.0, 0.4 * half_light, 0.75), galsim.Exponential(scale_radius=disc_scale * math.sqrt(ratio))
    found = compared(lat, lambda angle: 0.3 * inner(angle) + 0.7 * ellipse(outer, ratio, angle), scale)
    judged(f"bulge in a disc of axis ratio {ratio:.2f}, {sampling}", found, n, report)


@pytest.mark.parametrize(("index", "ratio"), [(1.0, 0.8), (4.0, 0.4), (4.0, 0.8)])
def test_the_reference_has_converged(index, ratio, report):
    """A finer GalSim gives the same stamp: what is measured above is our error."""
    profile = sersic(index, 2.5, ratio)(0.4)
    one, other = (drawn(profile, 0.8, [0.1, -0.2], accuracy) for accuracy in (FINE, FINER))
    change = float((one - other).abs().max() / one.max())
    report(f"GalSim's own change at finer settings over the peak, n = {index:.0f}, axis ratio {ratio}", change, n=1)
    assert change < 1e-4
