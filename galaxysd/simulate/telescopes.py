"""The telescopes of the survey operator: bands, pixels, seeing, depth; and what resampling their pixels does to the noise.

A telescope's sky noise follows from its published depth: for point sources through a matched filter, or in an aperture.
Gains are electrons that a source of one nanomaggy (22.5 mag) leaves in the whole exposure: good to some ten per cent, which matters
only for the noise of bright pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from galaxysd.errors import BadInput, nearest

# SDSS's own bands, in which latents have their colours and dust its depth.
WAVELENGTHS = {"g": 477.0, "r": 623.0, "i": 763.0}  # effective, nm
DUST = {"g": 1.22, "r": 0.86, "i": 0.66}  # optical depth over that in V
BEYOND = 0.8  # how much of the r to i slope goes on beyond i
BEST_NIGHT = 0.69  # the best seeing that populations draw, over the typical one
LEAST_SAMPLING = 0.375  # FWHM in pixels below which a stamp would alias
FINEST = 1 / 64  # of the telescope's own pixel: smaller ones show nothing more


def sky_from_depth(depth: float, fwhm: float, pixel: float) -> float:
    """Sky noise per pixel, in nanomaggies, of an image where a point source of magnitude `depth` is seen at five sigma.

    A matched filter gathers the noise of 4 pi s^2 of area, for a gaussian of standard deviation s.
    """
    area = 4 * math.pi * (fwhm / (2 * math.sqrt(2 * math.log(2)))) ** 2 / pixel**2
    return 10 ** (0.4 * (22.5 - depth)) / 5 / math.sqrt(area)


def sky_from_aperture(depth: float, sigmas: float, diameter: float, pixel: float) -> float:
    """Sky noise per pixel, in nanomaggies, where a source of magnitude `depth` is seen at `sigmas` in a round aperture, arcsec."""
    return 10 ** (0.4 * (22.5 - depth)) / sigmas / math.sqrt(math.pi * (diameter / 2) ** 2 / pixel**2)


def electrons(zero_point: float, seconds: float) -> float:
    """Electrons of a 22.5 mag source in an exposure; the zero point is the magnitude that gives one a second."""
    return 10 ** (0.4 * (zero_point - 22.5)) * seconds


@dataclass(frozen=True)
class Telescope:
    """A survey's images."""

    name: str
    bands: tuple[str, ...]
    wavelengths: tuple[float, ...]  # effective, nm
    pixel: float  # arcsec
    fwhm: tuple[float, ...]  # typical, arcsec
    scatter: float  # how much of a galaxy's own seeing shows: 1 on the ground
    sky: tuple[float, ...]  # rms per pixel, nanomaggies
    gain: tuple[float, ...]  # electrons per nanomaggy
    source: str

    def sky_rms(self, pixel_scale: float) -> tuple[float, ...]:
        """White noise per pixel of another scale, arcsec."""
        return tuple(rms * pixel_scale / self.pixel for rms in self.sky)

    def ratios(self, colours: Tensor) -> Tensor:
        """Flux in these bands over that in SDSS r, from that in SDSS g, r, i: [..., 3] -> [..., bands].

        Logarithms are linear in ln wavelength between g, r and i; beyond i the slope is a little less steep.
        """
        if self.bands == tuple(WAVELENGTHS):
            return colours
        logs, nodes = torch.log(colours.clamp_min(1e-30)), [math.log(each) for each in WAVELENGTHS.values()]
        found = []
        for band, wavelength in zip(self.bands, self.wavelengths, strict=True):
            if band in WAVELENGTHS:
                found.append(colours[..., list(WAVELENGTHS).index(band)])
                continue
            x = math.log(wavelength)
            low = 0 if x < nodes[1] else 1
            slope = (logs[..., low + 1] - logs[..., low]) / (nodes[low + 1] - nodes[low])
            run = x - nodes[1] if low == 0 else min(x, nodes[2]) - nodes[1] + BEYOND * max(0.0, x - nodes[2])
            found.append(torch.exp(logs[..., 1] + slope * run))
        return torch.stack(found, -1)

    def dust(self) -> tuple[float, ...]:
        """Optical depth of each band over that in V: a broken power law through g, r and i."""
        nodes, depths = [math.log(each) for each in WAVELENGTHS.values()], [math.log(each) for each in DUST.values()]
        found = []
        for band, wavelength in zip(self.bands, self.wavelengths, strict=True):
            x = math.log(wavelength)
            low = 0 if x < nodes[1] else 1
            slope = (depths[low + 1] - depths[low]) / (nodes[low + 1] - nodes[low])
            found.append(DUST[band] if band in DUST else math.exp(depths[1] + slope * (x - nodes[1])))
        return tuple(found)


def _deep(pixel: float, fwhm: tuple[float, ...], depths: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(sky_from_depth(depth, width, pixel) for depth, width in zip(depths, fwhm, strict=True))


TELESCOPES = {
    each.name: each
    for each in (
        Telescope(
            "sdss", ("g", "r", "i"), tuple(WAVELENGTHS.values()), 0.396, (1.3 * 1.07, 1.3, 1.3 * 0.96), 1.0, (0.018, 0.024, 0.036),
            (1050.0, 900.0, 700.0), "SDSS imaging: sky noise and gain of typical frames (York et al. 2000; approximate)",
        ),
        Telescope(
            "decals", ("g", "r", "z"), (477.0, 623.0, 913.0), 0.262, (1.29, 1.18, 1.11), 1.0,
            _deep(0.262, (1.29, 1.18, 1.11), (24.9, 24.2, 23.3)), (electrons(26.61, 250), electrons(26.82, 200), electrons(26.48, 300)),
            "DESI Legacy Imaging Surveys, DECam: pixels and seeing of Dey et al. 2019; depths, zero points and exposures approximate",
        ),
        Telescope(
            "hsc", ("g", "r", "i"), tuple(WAVELENGTHS.values()), 0.168, (0.77, 0.76, 0.58), 1.0,
            _deep(0.168, (0.77, 0.76, 0.58), (26.6, 26.2, 26.2)), (electrons(28.9, 600), electrons(28.9, 600), electrons(28.6, 1200)),
            "HSC-SSP Wide: pixels, seeing and depths of Aihara et al. 2019; gains approximate",
        ),
        Telescope(
            "euclid-vis", ("VIS",), (715.0,), 0.1, (0.17,), 0.05,
            (sky_from_aperture(25.6, 10, 1.3, 0.1),), (electrons(25.6, 2240),),
            "Euclid VIS: PSF after Cropper et al. 2025; depth in 1.3 arcsec apertures of Q1 stacks (arXiv:2503.15303); gain approximate",
        ),
        Telescope(
            "lsst", ("g", "r", "i"), tuple(WAVELENGTHS.values()), 0.2, (0.87, 0.83, 0.80), 1.0,
            _deep(0.2, (0.87, 0.83, 0.80), (27.4, 27.5, 26.8)), (electrons(28.4, 2400), electrons(28.2, 5520), electrons(27.9, 5520)),
            "LSST, ten-year coadds: pixels, seeing and depths of Ivezic et al. 2019; gains approximate",
        ),
    )
}  # fmt: skip


def telescope(name: str) -> Telescope:
    """The telescope of this name."""
    if name not in TELESCOPES:
        raise BadInput(f"telescope {name}: no such telescope{nearest(name, TELESCOPES)}")
    return TELESCOPES[name]


def check_pixels(through: Telescope, pixel_scale: float, size: int, r90: float | None = None, typical: float = math.inf) -> None:
    """Refuses pixels so coarse that the point spread function would fall between them, the telescope's or a sharper one, or too fine.

    `r90` is the galaxy's, arcsec, where a field is counted in it.
    """
    unit, name = (1.0, "arcsec") if r90 is None else (r90, "R90")
    if pixel_scale < FINEST * through.pixel:
        raise BadInput(
            f"telescope {through.name}: a pixel of {pixel_scale:.3g} arcsec is finer than a {round(1 / FINEST)}th of its own of "
            f"{through.pixel:g} arcsec; give a field of at least {size * FINEST * through.pixel / unit:.3g} {name}, or fewer pixels"
        )
    fwhm, band = min(zip(through.fwhm, through.bands, strict=True))
    fwhm = min(fwhm, typical)
    if fwhm >= LEAST_SAMPLING * pixel_scale:
        return
    field = size * pixel_scale
    enough = math.ceil(field * LEAST_SAMPLING / fwhm)
    raise BadInput(
        f"telescope {through.name}: its PSF of {fwhm:.3g} arcsec in {band} is below a pixel of {pixel_scale:.3g} arcsec and would alias; "
        f"give a size of at least {enough} pixels, or a field of at most {size * fwhm / LEAST_SAMPLING / unit:.3g} {name}"
    )


def correlation(size: int, pixel_scale: float, native: float, device: torch.device | str | None = None) -> Tensor | None:
    """What multiplies the transform [size, size // 2 + 1] of white noise when native pixels are resampled onto smaller ones; or None.

    Interpolation between native pixels is linear on each axis: sinc^2 of the frequency in native pixels. Low frequencies keep their
    power, so a sum over many pixels is as noisy as before and a single pixel less. Averaging native pixels leaves noise white. The
    transform wraps around the edges: give a size padded by a native pixel's reach.
    """
    if pixel_scale >= native:
        return None
    ky, kx = (torch.sinc(axis(size, pixel_scale, device=device) * native) ** 2 for axis in (torch.fft.fftfreq, torch.fft.rfftfreq))
    return ky[:, None] * kx


def correlated_share(pixel_scale: float, native: float) -> float:
    """A pixel's noise after `correlation` over what it would be if white."""
    if pixel_scale >= native:
        return 1.0
    k = (torch.arange(4096, dtype=torch.float64) + 0.5) / 4096 * (0.5 / pixel_scale)
    return float((torch.sinc(k * native) ** 4).mean())  # the square root of two axes, each the mean of sinc^4
