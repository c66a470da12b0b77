"""From latents to pixels: components on a fine grid, dust, the point spread function, pixels, photon and sky noise.

The grid has two points a pixel on a side and carries light in a margin around the stamp, so that light from just outside is
blurred in; the transform is padded with emptiness beyond that, so that nothing leaves at one edge and returns at the other.
Everything is float32 and batched; a pass takes as many galaxies as keep its planes in a core's cache.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from galaxysd import seeds
from galaxysd.simulate import profiles
from galaxysd.simulate.latents import DISC, EDGE_ON, IRREGULAR, Latents

OVER = 2  # grid points a pixel, on a side
BANDS = ("g", "r", "i")
SEEING = (1.07, 1.0, 0.96)  # FWHM of each band over that in r
DUST = (1.22, 0.86, 0.66)  # optical depth of each band over that in V
FOREGROUND = 0.12  # share of the light that stands before a dust lane
THICKNESS = 0.15  # axis ratio of a disc seen from its side
EXPONENTIAL_HALF_LIGHT = 1.67835  # half-light radius of an exponential disc, in scale lengths
MOFFAT_ALPHA = 1 / (2 * math.sqrt(2 ** (1 / 3.5) - 1))  # scale radius over FWHM, for beta = 3.5

# The night sky and detector of SDSS: what a 0.396 arcsec pixel sees.
PIXEL = 0.396
SKY_RMS = (0.018, 0.024, 0.036)  # nanomaggies
GAIN = (1050.0, 900.0, 700.0)  # electrons per nanomaggy


@dataclass(frozen=True)
class Grid:
    """The fine grid of a stamp: `side` points that carry light, `padded` in the transform."""

    size: int
    step: float  # arcsec between points
    side: int
    padded: int

    @classmethod
    def of(cls, size: int, pixel_scale: float) -> Grid:
        margin = -(-size // 8)  # grid points: a sixteenth of the stamp on each side
        side = OVER * size + 2 * margin
        return cls(size, pixel_scale / OVER, side, quick(side + 2 * margin))

    def axis(self, device: torch.device) -> Tensor:
        """Coordinates of the points from the middle of the stamp, arcsec."""
        return (torch.arange(self.side, device=device, dtype=torch.float32) - (self.side - 1) / 2) * self.step


def quick(least: int) -> int:
    """The next even length that a fast Fourier transform likes: of factors 2, 3 and 5."""
    n = least + least % 2
    while True:
        rest = n
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return n
        n += 2


def sky_rms(pixel_scale: float) -> tuple[float, ...]:
    """Noise of a typical night's sky, nanomaggies per pixel of this scale, in g, r, i."""
    return tuple(rms * pixel_scale / PIXEL for rms in SKY_RMS)


def moffat_transfer(k: Tensor, fwhm: Tensor) -> Tensor:
    """The exact transform of a Moffat profile of beta = 3.5: (1 + x + x^2/3) exp(-x), x = 2 pi k alpha; k in cycles per arcsec."""
    x = (2 * math.pi * MOFFAT_ALPHA) * k * fwhm
    return (1 + x + x * x / 3) * torch.exp(-x)


def core(lat: Latents, x: Tensor, y: Tensor, grid: Grid, boxy: bool) -> Tensor:
    """The Sersic component: [B, H, W]."""
    u, v = profiles.rotated(x, y, lat.angle)
    bent = torch.nonzero(lat.warp[:, 0] > 0)[:, 0]
    if len(bent):
        amplitude, wave, phase = (profiles.wide(each) for each in lat.warp[bent].unbind(1))
        v[bent] = v[bent] - amplitude * torch.sin(2 * math.pi * u[bent] / wave + phase)
    exponent = lat.core_boxy if boxy else None
    area = profiles.superellipse_area(lat.core_boxy) if boxy else math.pi
    r = profiles.radius(u, v, lat.core_ratio, exponent)
    image = profiles.sersic(r, lat.core_sersic, lat.core_radius, lat.core_ratio, grid.step, area)
    return profiles.wide(lat.core_share) * image


def cusps(lat: Latents, grid: Grid) -> Tensor:
    """The shares of each galaxy's light that the grid's samples of its core and of its disc lack: [B, 2]."""
    place = lat.centre / grid.step + (grid.side - 1) / 2  # in grid points
    offset = place - torch.floor(place)
    lacks = torch.zeros_like(lat.centre)
    for boxy in (False, True):
        # A bent body is shallow: it has no cusp.
        pick = torch.nonzero(((lat.core_boxy != 2) == boxy) & (lat.warp[:, 0] == 0))[:, 0]
        if len(pick):
            part = lat.rows(pick)
            lacks[pick, 0] = part.core_share * profiles.missing_light(
                offset[pick], part.angle, part.core_sersic, part.core_radius, part.core_ratio, grid.step, part.core_boxy if boxy else None
            )
    pick = torch.nonzero((lat.kind == DISC) & (lat.disc_share > 0))[:, 0]
    if len(pick):
        # An exponential disc is a Sersic profile of index 1.
        part = lat.rows(pick)
        shape = torch.ones_like(part.disc_scale), EXPONENTIAL_HALF_LIGHT * part.disc_scale, slant(part)
        lacks[pick, 1] = part.disc_share * profiles.missing_light(offset[pick], part.angle, *shape, grid.step)
    return lacks


def slant(lat: Latents) -> Tensor:
    """The axis ratio of a disc seen aslant, a little thick: [B]."""
    return torch.sqrt(lat.cos_inclination**2 + THICKNESS**2 * (1 - lat.cos_inclination**2))


def disc(lat: Latents, x: Tensor, y: Tensor, texture: Tensor, grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
    """Bar, smooth disc and arms of a disc seen from above or aslant: three planes [B, H, W]."""
    u, v = profiles.rotated(x, y, lat.angle)
    ratio = slant(lat)
    v = v / profiles.wide(ratio)
    r = torch.sqrt(u * u + v * v)
    smooth = profiles.wide(lat.disc_share) * profiles.inclined_disc(r, lat.disc_scale, ratio)
    b, c = profiles.rotated(u, v, lat.bar_angle)
    bar = profiles.wide(lat.bar_share / ratio) * profiles.bar(b, c, lat.bar_length, lat.bar_ratio)
    armed = torch.nonzero(lat.arm_share > 0)[:, 0]
    young = torch.zeros_like(smooth)
    if len(armed):
        a = lat.rows(armed)
        light = profiles.arms(
            u[armed], v[armed], r[armed], a.disc_scale, a.arm_sense, a.arm_pitch, a.arm_phase, a.arm_weight, a.arm_width, a.arm_reach
        )
        light = light * texture[armed]
        young[armed] = light * profiles.wide(a.arm_share / (light.sum((1, 2)) * grid.step**2))
    return bar, smooth, young


def patches(lat: Latents, seed: int, grid: Grid) -> Tensor:
    """Patchy light: a random field that multiplies what is young, from the texture's own stream; [B, H, W], mean about 1."""
    nodes = 24
    noise = seeds.normal(seed, "texture", lat.index, (1, nodes, nodes), device=lat.index.device)
    field = torch.nn.functional.interpolate(noise, size=(grid.side, grid.side), mode="bicubic", align_corners=True)[:, 0]
    sigma = profiles.wide(lat.texture)
    return torch.exp(sigma * field - 0.3 * sigma**2)


def light(lat: Latents, seed: int, grid: Grid) -> Tensor:
    """Surface brightness before the atmosphere, nanomaggies per square arcsec on the fine grid: [B, 3, H, W]."""
    axis = grid.axis(lat.index.device)
    line_x, line_y = axis - lat.centre[:, :1], axis - lat.centre[:, 1:]  # [B, W], [B, H]
    x, y = line_x[:, None, :], line_y[:, :, None]
    planes = torch.zeros(len(lat), 3, grid.side, grid.side, device=axis.device)  # core, disc, young
    rough = torch.nonzero(lat.texture > 0)[:, 0]
    texture = torch.ones(len(lat), grid.side, grid.side, device=axis.device)
    if len(rough):
        texture[rough] = patches(lat.rows(rough), seed, grid)

    for boxy in (False, True):
        pick = torch.nonzero((lat.core_boxy != 2) == boxy)[:, 0]
        if len(pick):
            planes[pick, 0] = core(lat.rows(pick), x[pick], y[pick], grid, boxy)
    pick = torch.nonzero(lat.kind == IRREGULAR)[:, 0]
    planes[pick, 0] *= texture[pick]
    pick = torch.nonzero(lat.kind == DISC)[:, 0]
    if len(pick):
        bar, smooth, young = disc(lat.rows(pick), x[pick], y[pick], texture[pick], grid)
        planes[pick, 0] += bar
        planes[pick, 1] = smooth
        planes[pick, 2] = young
    pick = torch.nonzero(lat.kind == EDGE_ON)[:, 0]
    if len(pick):
        edge = lat.rows(pick)
        u, v = profiles.rotated(x[pick], y[pick], edge.angle)
        height = edge.disc_height * edge.disc_scale
        planes[pick, 1] = profiles.wide(edge.disc_share) * profiles.edge_on_disc(u, v, edge.angle, edge.disc_scale, height, grid.step)
    pick = torch.nonzero(lat.clump_share > 0)[:, 0]
    if len(pick):
        knots = lat.rows(pick)
        bright = profiles.clumps(line_x[pick], line_y[pick], knots.clump_place, knots.clump_width, knots.clump_weight, grid.step)
        planes[pick, 2] += profiles.wide(knots.clump_share) * bright * texture[pick]

    flux = 10 ** (0.4 * (22.5 - lat.magnitude))
    mixture = (lat.colours * flux[:, None, None]).transpose(1, 2)  # [B, band, plane]
    image = (mixture @ planes.flatten(2)).reshape(planes.shape)
    pick = torch.nonzero(lat.lane_depth > 0)[:, 0]
    if len(pick):
        image[pick] = image[pick] * absorbed(lat.rows(pick), x[pick], y[pick], grid.step)
    return image


def absorbed(lat: Latents, x: Tensor, y: Tensor, step: float) -> Tensor:
    """The share of the light that a dust lane lets through in each band: [B, 3, H, W].

    A lane can be thinner than a step, so the share is a mean over five places across the cell, each with the weight of the light
    there: that of the disc seen edge-on, or an even one.
    """
    angle = lat.angle + lat.lane_angle
    u, v = profiles.rotated(x, y, angle)
    cell = step * torch.maximum(torch.cos(angle).abs(), torch.sin(angle).abs())
    thickness = profiles.wide(torch.where(lat.kind == EDGE_ON, lat.disc_height * lat.disc_scale, 1e6))
    through, total = torch.zeros(len(lat), len(DUST), *v.shape[1:], device=v.device), torch.zeros_like(v)
    for place in (-0.4, -0.2, 0.0, 0.2, 0.4):
        across = v + profiles.wide(cell * place)
        depth = profiles.wide(lat.lane_depth) * profiles.lane(u, across, lat.lane_width, lat.lane_length, lat.lane_offset)
        # sech^2 over its value in the middle of the cell, which far out is 0 / 0 but for the logarithm
        weight = torch.exp(2 * (log_cosh(v / thickness) - log_cosh(across / thickness)))
        total += weight
        for band, k in enumerate(DUST):
            through[:, band] += weight * torch.exp(-k * depth)
    return FOREGROUND + (1 - FOREGROUND) * through / total[:, None]


def log_cosh(x: Tensor) -> Tensor:
    return x.abs() + torch.log1p(torch.exp(-2 * x.abs())) - math.log(2)


def points(lat: Latents, grid: Grid) -> tuple[Tensor, Tensor]:
    """What is smaller than the grid resolves, the field's stars and the galaxy's cusps: places [B, P, 2] and fluxes [B, P, 3]."""
    total = 10 ** (0.4 * (22.5 - lat.magnitude))
    flux = (cusps(lat, grid)[..., None] * lat.colours[:, :2]).sum(1) * total[:, None]
    laned = torch.nonzero(lat.lane_depth > 0)[:, 0]
    if len(laned):
        origin = torch.zeros(len(laned), 1, 1, device=flux.device)
        flux[laned] *= absorbed(lat.rows(laned), origin, origin, grid.step)[:, :, 0, 0]
    place = torch.cat([lat.star_place, lat.centre[:, None]], 1)
    inside = (place.abs() < grid.side * grid.step / 2).all(-1, keepdim=True)
    return place, torch.cat([lat.star_flux, flux[:, None]], 1) * inside


def waves(place: Tensor, flux: Tensor, kx: Tensor, ky: Tensor, grid: Grid) -> Tensor:
    """The transform of point sources at their exact places, as surface brightness on the grid: [B, 3, ky, kx]."""
    origin = (grid.side - 1) / 2 * grid.step  # of the grid's first point
    phase = (-2 * math.pi) * (place + origin)
    along = torch.polar(torch.ones((), device=flux.device), phase[..., :1] * kx)  # [B, P, kx]
    across = torch.polar(torch.ones((), device=flux.device), phase[..., 1:] * ky)
    weighted = (flux / grid.step**2).transpose(1, 2)[:, :, None] * across.transpose(1, 2)[:, None]  # [B, 3, ky, P]
    return (weighted.flatten(1, 2) @ along).unflatten(1, (3, -1))


def observed(image: Tensor, lat: Latents, grid: Grid) -> Tensor:
    """Surface brightness on the fine grid, and points, as flux per pixel through atmosphere and pixels: [B, 3, size, size]."""
    n, step = grid.padded, grid.step
    ky = torch.fft.fftfreq(n, step, device=image.device)
    kx = torch.fft.rfftfreq(n, step, device=image.device)
    # A grid value is a sample; its cell's integral is the sample of the profile blurred by the cell.
    cell = torch.sinc(ky * step)[:, None] * torch.sinc(kx * step) * step**2
    spectrum = torch.fft.rfft2(image, s=(n, n)) + waves(*points(lat, grid), kx, ky, grid)
    k = torch.sqrt(ky[:, None] ** 2 + kx**2)
    fwhm = lat.seeing[:, None] * torch.tensor(SEEING, device=image.device)
    cell = cell * moffat_transfer(k, fwhm[:, :, None, None])
    fine = torch.fft.irfft2(spectrum * cell, s=(n, n))
    margin = (grid.side - OVER * grid.size) // 2
    inner = slice(margin, margin + OVER * grid.size)
    return torch.nn.functional.avg_pool2d(fine[..., inner, inner], OVER) * OVER**2


def clean(lat: Latents, size: int, pixel_scale: float, seed: int) -> Tensor:
    """Noise-free flux, nanomaggies per pixel: float32 [B, 3, size, size]."""
    grid = Grid.of(size, pixel_scale)
    at_once = max(4, min(32, 2**18 // grid.side**2)) if lat.index.device.type == "cpu" else 256
    parts = []
    for start in range(0, len(lat), at_once):
        part = lat.rows(torch.arange(start, min(start + at_once, len(lat)), device=lat.index.device))
        parts.append(observed(light(part, seed, grid), part, grid))
    return torch.cat(parts)


def noisy(flux: Tensor, lat: Latents, pixel_scale: float, seed: int) -> Tensor:
    """`flux` with the noise of sky and photons.

    The sky alone gives hundreds of electrons a pixel, where Poisson's law is Gauss's: one normal draw of the summed variance.
    """
    sky = torch.tensor(sky_rms(pixel_scale), device=flux.device)[:, None, None] * lat.sky[:, None, None, None]
    gain = torch.tensor(GAIN, device=flux.device)[:, None, None]
    sigma = torch.sqrt(sky**2 + flux.clamp_min(0) / gain)
    return flux + sigma * seeds.normal(seed, "sky", lat.index, flux.shape[1:], device=flux.device)
