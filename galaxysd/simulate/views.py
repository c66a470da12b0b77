"""How galaxies are seen: by which telescope, in which pixels, from how far. The same galaxy in another survey is the same latents here."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from galaxysd.data.galaxies import Frame
from galaxysd.errors import BadInput, GalaxySDError, nearest
from galaxysd.simulate import telescopes
from galaxysd.simulate.compose import flux_ratios
from galaxysd.simulate.latents import LENGTHS, STAR, Latents
from galaxysd.simulate.populations import FIELD_OF_VIEW
from galaxysd.simulate.render import Optics
from galaxysd.simulate.telescopes import Telescope

SMALLEST, LARGEST = 16, 512
PIXELS = ("arcsec", "r90")
R90_FIELD = 3.2  # R90 on a side of a stamp scaled by R90
# What is not the galaxy's own stays where it is when the galaxy is moved away.
HERE = {"seeing", "centre", "star_place", "field_place", "field_radius", "trail_offset", "trail_width", "spike_length"}
REDDER = (1.6, 1.2, 0.8, 0.0)  # by how much g - r of old, disc, young and foreign light grows per unit of redshift
HUBBLE, MATTER = 70.0, 0.3  # km/s/Mpc and share, flat


@dataclass(frozen=True)
class View:
    """A telescope, a stamp and a distance."""

    telescope: str = "sdss"
    pixels: str = "arcsec"  # the same arcsec per pixel for all, or stamps scaled by each galaxy's R90
    field: float | None = None  # a stamp's side, in arcsec or in R90; the population's where None
    redshift: float | None = None  # where the galaxies are moved to

    def __post_init__(self) -> None:
        telescopes.telescope(self.telescope)
        if self.pixels not in PIXELS:
            raise BadInput(f"pixels: {self.pixels!r}{nearest(self.pixels, PIXELS)}; stamps are scaled by arcsec or by r90")
        if self.field is not None and not 0 < self.field < math.inf:
            raise BadInput(f"field: {self.field}; the side of a stamp must be positive")
        if self.redshift is not None and not 0.001 <= self.redshift <= 3:
            raise BadInput(f"redshift: {self.redshift}; galaxies can be moved to between 0.001 and 3")

    @property
    def through(self) -> Telescope:
        return telescopes.telescope(self.telescope)

    def side(self, preset: str) -> float:
        """The side of a stamp, in arcsec or in R90."""
        if self.field is not None:
            return self.field
        return R90_FIELD if self.pixels == "r90" else FIELD_OF_VIEW[preset]

    def describe(self) -> dict[str, Any]:
        """What differs from the plain view."""
        plain = View()
        return {
            name: getattr(self, name)
            for name in ("telescope", "pixels", "field", "redshift")
            if getattr(self, name) != getattr(plain, name)
        }

    def frame(self, preset: str, size: int) -> Frame:
        """The frame of a population's stamps: the same field of view whatever the size."""
        if not SMALLEST <= size <= LARGEST:
            raise GalaxySDError(f"size: {size} pixels; stamps are {SMALLEST} to {LARGEST} pixels on a side")
        through, scale = self.through, self.side(preset) / size
        if self.pixels == "r90":
            return Frame("flux", size, through.bands, (22.5,) * len(through.bands), psf_fwhm=through.fwhm)
        telescopes.check_pixels(through, scale, size)
        share = telescopes.correlated_share(scale, through.pixel)
        sky = tuple(share * rms for rms in through.sky_rms(scale))
        return Frame("flux", size, through.bands, (22.5,) * len(through.bands), pixel_scale=scale, psf_fwhm=through.fwhm, sky_rms=sky)


@dataclass(frozen=True)
class Seen:
    """Galaxies ready to be rendered: lengths in arcsec, or in pixels where each has its own scale."""

    lat: Latents
    optics: Optics
    pixel: float  # a pixel in the unit of the lengths


def from_afar(lat: Latents, view: View) -> Latents:
    """The galaxies where the view puts them."""
    return lat if view.redshift is None else moved(lat, torch.full_like(lat.redshift, view.redshift))


def for_volunteers(lat: Latents, view: View) -> Latents:
    """The galaxies with the seeing and the sky that a view has, in the terms that volunteers' eyes know: they see what was imaged."""
    through, plain = view.through, telescopes.telescope("sdss")
    if through == plain:
        return lat
    band, middle = main_band(through), main_band(plain)
    deeper = (through.sky[band] / through.pixel) / (plain.sky[middle] / plain.pixel)
    return replace(lat, seeing=Optics.of(lat, 1.0, through).fwhm[:, band], sky=lat.sky * deeper)


def main_band(through: Telescope) -> int:
    """The band that a telescope's numbers are given in: r, or its first."""
    return through.bands.index("r") if "r" in through.bands else 0


def seen(lat: Latents, view: View, preset: str, size: int) -> Seen:
    """The galaxies as a view's telescope and pixels show them."""
    side, through = view.side(preset), view.through
    scale = torch.full_like(lat.r90, side / size) if view.pixels == "arcsec" else side * lat.r90 / size  # arcsec per pixel
    optics = Optics.of(lat, scale, through)
    for row in ((optics.fwhm.amin(1) / scale).argmin(), scale.argmin()):
        own = float(lat.r90[row]) if view.pixels == "r90" else None
        telescopes.check_pixels(through, float(scale[row]), size, own, float(optics.fwhm[row].amin()) / telescopes.BEST_NIGHT)
    if view.pixels == "arcsec":
        return Seen(lat, optics, side / size)
    return Seen(lat.scaled(1 / scale), replace(optics, fwhm=optics.fwhm / scale[:, None]), 1.0)


def luminosity_distance(redshift: Tensor) -> Tensor:
    """Mpc, in a flat universe: Simpson's rule over 64 steps."""
    nodes = torch.linspace(0, 1, 65, dtype=torch.float64, device=redshift.device)
    weight = torch.tensor([1.0, *[4.0, 2.0] * 31, 4.0, 1.0], dtype=torch.float64, device=redshift.device) / (3 * 64)
    z = redshift.double()[:, None] * nodes
    inverse = (MATTER * (1 + z) ** 3 + 1 - MATTER).rsqrt()
    return (299792.458 / HUBBLE) * (1 + redshift.double()) * redshift.double() * (inverse * weight).sum(1)


def moved(lat: Latents, redshift: Tensor) -> Latents:
    """The galaxies at other redshifts: smaller, fainter by (1 + z)^4 in surface brightness, redder; the sky before them stays.

    Light is dimmed alike in every band but for the reddening that populations have with redshift: no full K correction.
    """
    here, there = luminosity_distance(lat.redshift), luminosity_distance(redshift)
    nearer = (there / here).to(lat.r90.dtype)
    shrink = ((1 + redshift) / (1 + lat.redshift)) ** 2 / nearer
    away = lat.scaled(shrink)
    kept = {name: getattr(lat, name) for name in LENGTHS if name in HERE} | {"trail_flux": lat.trail_flux}
    # A star before the galaxy is as bright as it was, and all that is seen.
    magnitude = lat.magnitude + torch.where(lat.kind == STAR, 0.0, 5 * torch.log10(nearer))
    shift = torch.tensor(REDDER, device=redshift.device) * (redshift - lat.redshift)[:, None]
    colours = lat.colours * flux_ratios(shift, 0.42 * shift)
    return replace(away, **kept, redshift=redshift, magnitude=magnitude, colours=colours)
