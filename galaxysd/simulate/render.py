"""From latents to pixels: components on a fine grid, dust, the point spread function, pixels, photon and sky noise.

The grid has two points a pixel on a side or more and carries light in a margin around the stamp, so that light from just outside is
blurred in; the transform is padded with emptiness beyond that, so that nothing leaves at one edge and returns at the other.
Everything is float32 and batched; a pass takes as many galaxies as keep its planes in a core's cache.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from galaxysd import seeds
from galaxysd.simulate import profiles, telescopes
from galaxysd.simulate.components import COMPONENTS, DISC_LIGHT, FOREIGN, OLD, Component, Place, slant
from galaxysd.simulate.latents import DISC, EDGE_ON, Latents
from galaxysd.simulate.telescopes import Telescope

OVER = 2  # grid points a pixel, on a side; one more where the seeing is less than two thirds of a pixel
LANED_OVER = 4  # where there is a dust lane, which is thinner than anything else
FOREGROUND = 0.12  # share of the light that stands before a dust lane
EXPONENTIAL_HALF_LIGHT = 1.67835  # half-light radius of an exponential disc, in scale lengths
MOFFAT_ALPHA = 1 / (2 * math.sqrt(2 ** (1 / 3.5) - 1))  # scale radius over FWHM, for beta = 3.5
PLACES, EDGE_ON_PLACES = (-0.25, 0.25), (-0.4, -0.2, 0.0, 0.2, 0.4)  # across a cell, for a lane's mean over it
SEEING = 1.3  # arcsec: what a telescope's typical FWHM goes with

Shape = tuple[Tensor, Tensor, Tensor, Tensor]  # angle, Sersic index, half-light radius, axis ratio
SDSS = telescopes.telescope("sdss")


@dataclass(frozen=True)
class Optics:
    """A telescope for a batch of galaxies, lengths in the unit of theirs."""

    telescope: Telescope
    fwhm: Tensor  # [B, bands]
    pixel_arcsec: Tensor  # [B] what one pixel of the image is on the sky

    @classmethod
    def of(cls, lat: Latents, pixel_scale: float | Tensor, telescope: Telescope = SDSS) -> Optics:
        """Each galaxy in its own seeing, as far as this telescope knows any."""
        typical = torch.tensor(telescope.fwhm, device=lat.seeing.device)
        fwhm = typical * (1 + telescope.scatter * (lat.seeing[:, None] / SEEING - 1))
        scale = torch.as_tensor(pixel_scale, dtype=torch.float32, device=lat.seeing.device).expand(len(lat))
        return cls(telescope, fwhm, scale)

    def rows(self, pick: Tensor) -> Optics:
        return Optics(self.telescope, self.fwhm[pick], self.pixel_arcsec[pick])

    def flux(self, gri: Tensor) -> Tensor:
        """Fluxes in g, r, i as fluxes in this telescope's bands: [..., 3] -> [..., bands]."""
        red = gri[..., 1:2]
        return red * self.telescope.ratios(torch.where(red > 0, gri / red.clamp_min(1e-30), 1.0))


@dataclass(frozen=True)
class Grid:
    """The fine grid of a stamp: `side` points that carry light, `padded` in the transform."""

    size: int
    step: float  # arcsec between points
    side: int
    padded: int
    over: int  # points a pixel, on a side

    @classmethod
    def of(cls, size: int, pixel_scale: float, over: int = OVER) -> Grid:
        margin = over * -(-size // 16)  # whole pixels: a sixteenth of the stamp on each side
        side = over * size + 2 * margin
        return cls(size, pixel_scale / over, side, quick(side + 2 * margin, over), over)

    @property
    def margin(self) -> int:
        return (self.side - self.over * self.size) // 2

    def axis(self, device: torch.device) -> Tensor:
        """Coordinates of the points from the middle of the stamp, arcsec."""
        return (torch.arange(self.side, device=device, dtype=torch.float32) - (self.side - 1) / 2) * self.step


def quick(least: int, of: int) -> int:
    """The next even multiple of `of` that a fast Fourier transform likes: of factors 2, 3 and 5."""
    unit = math.lcm(2, of)
    n = -(-least // unit) * unit
    while True:
        rest = n
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return n
        n += unit


def moffat_transfer(k: Tensor, fwhm: Tensor) -> Tensor:
    """The exact transform of a Moffat profile of beta = 3.5: (1 + x + x^2/3) exp(-x), x = 2 pi k alpha; k in cycles per arcsec."""
    x = (2 * math.pi * MOFFAT_ALPHA) * k * fwhm
    return (1 + x + x * x / 3) * torch.exp(-x)


def add_cusps(found: Tensor, lat: Latents, grid: Grid) -> None:
    """Adds to the planes of light what the grid's samples of cores, discs and companions lack around their cusps."""
    for boxy in (False, True):
        # A bent body is shallow: it has no cusp.
        pick = torch.nonzero(((lat.core_boxy != 2) == boxy) & (lat.warp[:, 0] == 0) & (lat.core_share > 0))[:, 0]
        if len(pick):
            part = lat.rows(pick)
            exponent = part.core_boxy if boxy else None
            shape = part.angle, part.core_sersic, part.core_radius, part.core_ratio
            onto(found, pick, OLD, part.centre, part.core_share, shape, grid, exponent)
    pick = torch.nonzero((lat.kind == DISC) & (lat.disc_share > 0))[:, 0]
    if len(pick):
        # An exponential disc is a Sersic profile of index 1.
        part = lat.rows(pick)
        shape = part.angle, torch.ones_like(part.disc_scale), EXPONENTIAL_HALF_LIGHT * part.disc_scale, slant(part)
        onto(found, pick, DISC_LIGHT, part.centre, part.disc_share, shape, grid)
    pick = torch.nonzero(lat.mate_share > 0)[:, 0]
    if len(pick):
        part = lat.rows(pick)
        shape = part.mate_angle, part.mate_sersic, part.mate_radius, part.mate_ratio
        onto(found, pick, FOREIGN, part.centre + part.mate_place, part.mate_share, shape, grid)


def onto(
    found: Tensor, rows: Tensor, colour: int, place: Tensor, share: Tensor, shape: Shape, grid: Grid,
    exponent: Tensor | None = None,
) -> None:  # fmt: skip
    """Adds what a profile of this shape at `place` lacks; beyond the grid nothing."""
    point = place / grid.step + (grid.side - 1) / 2
    near = torch.floor(point).long()
    patch = profiles.wide(share) * profiles.missing_light(point - near, *shape, grid.step, exponent)  # [B, 4, 4]
    inside = ((near >= 1) & (near < grid.side - 2)).all(1)
    rows, near, patch = rows[inside], near[inside], patch[inside]
    about = torch.arange(-1, 3, device=near.device)
    y, x = near[:, 1, None, None] + about[:, None], near[:, 0, None, None] + about
    found.index_put_((rows[:, None, None], torch.tensor(colour, device=rows.device), y, x), patch, accumulate=True)


def placed(lat: Latents, seed: int, grid: Grid) -> Place:
    """The points of the grid, as seen from the galaxies' centres."""
    axis = grid.axis(lat.index.device)
    return Place(lat, axis - lat.centre[:, :1], axis - lat.centre[:, 1:], grid.step, seed)


def planes(at: Place) -> Tensor:
    """Light by colour, for a host of total 1: [B, 4, H, W]."""
    lat = at.lat
    found = torch.zeros(len(lat), 4, at.line_y.shape[1], at.line_x.shape[1], device=lat.angle.device)
    at.along()
    discs = torch.nonzero(lat.kind == DISC)[:, 0]
    if len(discs):
        # Disc, bar, arms and ring share the coordinates of their plane.
        inner = at.rows(discs)
        inner.radius()
        for name in ("disc", "bar", "arms", "ring"):
            _add(found, discs, inner, COMPONENTS[name])
    every = torch.arange(len(lat), device=lat.angle.device)
    for name, component in COMPONENTS.items():
        if name not in ("disc", "bar", "arms", "ring"):
            _add(found, every, at, component)
    return found


def _add(found: Tensor, rows: Tensor, at: Place, component: Component) -> None:
    pick = torch.nonzero(component.present(at.lat))[:, 0]
    if len(pick):
        found[:, component.colour].index_add_(0, rows[pick], component.plane(at.rows(pick)))


def light(lat: Latents, seed: int, grid: Grid, optics: Optics) -> Tensor:
    """Surface brightness before the atmosphere, nanomaggies per square unit of length on the fine grid: [B, bands, H, W]."""
    at = placed(lat, seed, grid)
    found = planes(at)
    add_cusps(found, lat, grid)
    mixture = (optics.telescope.ratios(lat.colours) * host_flux(lat)[:, None, None]).transpose(1, 2)  # [B, band, plane]
    image = (mixture @ found.flatten(2)).unflatten(2, found.shape[2:])
    pick = torch.nonzero(lat.lane_depth > 0)[:, 0]
    if len(pick):
        image[pick] *= absorbed(lat.rows(pick), *at.rows(pick).xy, grid.step, optics.telescope)
    around(image, lat, grid, optics)
    return image


def host_flux(lat: Latents) -> Tensor:
    """r flux of the host in nanomaggies: [B]."""
    return 10 ** (0.4 * (22.5 - lat.magnitude))


def around(image: Tensor, lat: Latents, grid: Grid, optics: Optics) -> None:
    """Adds what is not of the galaxy and larger than a point: galaxies of the field, a satellite's trail, the spikes of a star."""
    axis = grid.axis(lat.index.device)
    flux = optics.flux(lat.field_flux)
    for k in range(lat.field_flux.shape[1]):
        pick = torch.nonzero((lat.field_flux[:, k] > 0).any(1))[:, 0]
        if len(pick):
            place, shape = lat.field_place[pick, k], (lat.field_radius[pick, k], lat.field_ratio[pick, k])
            x, y = axis - place[:, :1], axis - place[:, 1:]
            u, v = profiles.rotated(x[:, None, :], y[:, :, None], lat.field_angle[pick, k])
            # Small and faint: gaussians, never narrower than the grid can carry.
            along, across = (torch.sqrt(each**2 + (0.6 * grid.step) ** 2) for each in (shape[0], shape[0] * shape[1]))
            plane = profiles.gaussian(u, v, along, across)
            image.index_add_(0, pick, plane[:, None] * flux[pick, k, :, None, None])
    x, y = axis[None, None, :], axis[None, :, None]
    pick = torch.nonzero((lat.trail_flux > 0).any(1))[:, 0]
    if len(pick):
        _, v = profiles.rotated(x, y, lat.trail_angle[pick])
        width = torch.sqrt(lat.trail_width[pick] ** 2 + (grid.step / 2) ** 2)
        plane = profiles.cut(profiles.line(v - profiles.wide(lat.trail_offset[pick]), width))
        image.index_add_(0, pick, plane[:, None] * optics.flux(lat.trail_flux[pick])[:, :, None, None])
    pick = torch.nonzero((lat.spike_flux > 0).any(1))[:, 0]
    if len(pick):
        place = lat.star_place[pick, 0]
        u, v = profiles.rotated(x - profiles.wide(place[:, 0]), y - profiles.wide(place[:, 1]), lat.spike_angle[pick])
        width = torch.full_like(lat.spike_angle[pick], 0.7 * grid.step)
        plane = profiles.spikes(u, v, lat.spike_length[pick], width)
        image.index_add_(0, pick, plane[:, None] * optics.flux(lat.spike_flux[pick])[:, :, None, None])


def absorbed(lat: Latents, x: Tensor, y: Tensor, step: float, telescope: Telescope) -> Tensor:
    """The share of the light that a dust lane lets through in each band: [B, bands, H, W]; exactly 1 outside it.

    A lane can be thinner than a step, so the share is a mean over places across the cell, each with the weight of the light there:
    that of the disc seen edge-on, or an even one. Only points that the lane can touch are looked at.
    """
    dust = torch.tensor(telescope.dust(), device=x.device)
    angle = lat.angle + lat.lane_angle
    u, v = profiles.rotated(x, y, angle)
    cell = step * torch.maximum(torch.cos(angle).abs(), torch.sin(angle).abs())
    shift, bend = (profiles.wide(each) for each in lat.lane_offset.unbind(1))
    along = (u / profiles.wide(lat.lane_length)) ** 2
    far = (v - shift - bend * along).abs() > profiles.wide(profiles.LANE_REACH * lat.lane_width + cell / 2)
    through = torch.ones(len(lat), *u.shape[1:], len(dust), device=x.device)
    for edge, places in ((False, PLACES), (True, EDGE_ON_PLACES)):
        near = ~far & (along < profiles.LANE_REACH**2) & profiles.wide((lat.kind == EDGE_ON) == edge)
        row = torch.nonzero(near)[:, 0]
        part_u, part_v = (each[near][:, None, None] for each in (u, v))
        shape = lat.lane_width[row], lat.lane_length[row], lat.lane_offset[row]
        depth_of, height = profiles.wide(lat.lane_depth[row]), profiles.wide((lat.disc_height * lat.disc_scale)[row])
        lost, total = torch.zeros(len(row), 1, len(dust), device=x.device), torch.zeros(len(row), 1, 1, device=x.device)
        for place in places:
            across = part_v + profiles.wide(cell[row] * place)
            depth = depth_of * profiles.lane(part_u, across, *shape)
            # sech^2 over its value in the middle of the cell, which far out is 0 / 0 but for the logarithm
            weight = torch.exp(2 * (log_cosh(part_v / height) - log_cosh(across / height))) if edge else torch.ones_like(depth)
            lost, total = lost - weight * torch.expm1(-dust * depth), total + weight
        through[near] = (1 - (1 - FOREGROUND) * lost / total)[:, 0]
    return through.movedim(-1, 1)


def log_cosh(x: Tensor) -> Tensor:
    return x.abs() + torch.log1p(torch.exp(-2 * x.abs())) - math.log(2)


def points(lat: Latents, grid: Grid, optics: Optics) -> tuple[Tensor, Tensor]:
    """The stars in the stamp: places [B, P, 2] and fluxes [B, P, bands]."""
    inside = (lat.star_place.abs() < grid.side * grid.step / 2).all(-1, keepdim=True)
    return lat.star_place, optics.flux(lat.star_flux) * inside


def waves(place: Tensor, flux: Tensor, kx: Tensor, ky: Tensor, grid: Grid) -> Tensor:
    """The transform of point sources at their exact places, as surface brightness on the grid: [B, 3, ky, kx]."""
    origin = (grid.side - 1) / 2 * grid.step  # of the grid's first point
    phase = (-2 * math.pi) * (place + origin)
    along = torch.polar(torch.ones((), device=flux.device), phase[..., :1] * kx)  # [B, P, kx]
    across = torch.polar(torch.ones((), device=flux.device), phase[..., 1:] * ky)
    weighted = (flux / grid.step**2).transpose(1, 2)[:, :, None] * across.transpose(1, 2)[:, None]  # [B, 3, ky, P]
    return (weighted.flatten(1, 2) @ along).unflatten(1, (flux.shape[-1], -1))


def observed(image: Tensor, lat: Latents, grid: Grid, optics: Optics) -> Tensor:
    """Surface brightness on the fine grid, and points, as flux per pixel through atmosphere and pixels: [B, bands, size, size]."""
    n, step = grid.padded, grid.step
    ky = torch.fft.fftfreq(n, step, device=image.device)
    kx = torch.fft.rfftfreq(n, step, device=image.device)
    spectrum = torch.fft.rfft2(image, s=(n, n))
    place, flux = points(lat, grid, optics)
    lit = torch.nonzero((flux > 0).flatten(1).any(1))[:, 0]
    if len(lit):
        spectrum[lit] += waves(place[lit], flux[lit], kx, ky, grid)
    # A grid value is a sample; its cell's integral is the sample of the profile blurred by the cell.
    ky = ky[: n // 2 + 1].abs()  # the rest mirrors it
    cell = torch.sinc(ky * step)[:, None] * torch.sinc(kx * step) * step**2
    transfer = cell * moffat_transfer(torch.sqrt(ky[:, None] ** 2 + kx**2), optics.fwhm[:, :, None, None])
    spectrum[..., : n // 2 + 1, :] *= transfer
    spectrum[..., n // 2 + 1 :, :] *= transfer[..., 1:-1, :].flip(-2)
    return summed_back(spectrum, grid)


def summed_back(spectrum: Tensor, grid: Grid) -> Tensor:
    """The stamp's own points, summed by pixel, from the transform of the grid: [..., padded, padded // 2 + 1] -> [..., size, size].

    Down the columns the sum is a filter, and keeping one row of points a pixel folds the spectrum before it is transformed back. Along
    the rows transform and sum are one product with a matrix. The points themselves are never computed.
    """
    n, over, device = grid.padded, grid.over, spectrum.device
    turn = (2j * math.pi / n) * torch.arange(n, device=device, dtype=torch.float64)[:, None]
    own = torch.arange(over * grid.size, device=device) + grid.margin
    down = torch.exp(turn * own[:over]).sum(1).view(over, n // over, 1).to(spectrum.dtype)
    parts = spectrum.unflatten(-2, (over, n // over))
    folded = parts[..., 0, :, :] * down[0]
    for m in range(1, over):
        folded.addcmul_(parts[..., m, :, :], down[m])
    columns = torch.fft.ifft(folded, dim=-2)[..., : grid.size, :]
    back = torch.exp(turn[: n // 2 + 1] * own).unflatten(1, (grid.size, over)).sum(2) / (n * over)
    back[1:-1] *= 2  # the other half of the spectrum is this one's conjugate
    matrix = torch.stack([back.real, -back.imag], 1).flatten(0, 1).to(torch.float32)
    return torch.view_as_real(columns).flatten(-2) @ matrix


def binned(fine: Tensor, grid: Grid) -> Tensor:
    """The stamp's own points, summed by pixel: [..., side, side] -> [..., size, size]."""
    inner = slice(grid.margin, grid.margin + grid.over * grid.size)
    return torch.nn.functional.avg_pool2d(fine[..., inner, inner], grid.over) * grid.over**2


def grids(lat: Latents, size: int, pixel: float, optics: Optics) -> Iterator[tuple[Tensor, Grid]]:
    """Which rows are rendered on which grid: fine enough for what the optics let through, and for the lanes of those that have one."""
    coarse = min(optics.telescope.fwhm) < 2 / 3 * float(optics.pixel_arcsec.max())
    fine = lat.fine > 0
    for pick, over in ((~fine, OVER + coarse), (fine, LANED_OVER)):
        rows = torch.nonzero(pick)[:, 0]
        if len(rows):
            yield rows, Grid.of(size, pixel, over)


def clean(lat: Latents, size: int, pixel_scale: float, seed: int, optics: Optics | None = None) -> Tensor:
    """Noise-free flux, nanomaggies per pixel: float32 [B, bands, size, size]; by default through SDSS.

    `pixel_scale` is in the unit of the galaxies' lengths, arcsec unless they were scaled.
    """
    optics = Optics.of(lat, pixel_scale) if optics is None else optics
    found = torch.empty(len(lat), len(optics.telescope.bands), size, size, device=lat.angle.device)
    for rows, grid in grids(lat, size, pixel_scale, optics):
        at_once = max(4, min(32, 3 * 2**17 // grid.side**2)) if lat.index.device.type == "cpu" else 256
        for pick in rows[torch.argsort(lat.kind[rows], stable=True)].split(at_once):
            part, through = lat.rows(pick), optics.rows(pick)
            found[pick] = observed(light(part, seed, grid, through), part, grid, through)
    return found


def noise_rms(lat: Latents, optics: Optics) -> Tensor:
    """The sky's noise as white per pixel: [B, bands], nanomaggies."""
    native = torch.tensor(optics.telescope.sky, device=lat.sky.device) / optics.telescope.pixel
    return native * optics.pixel_arcsec[:, None] * lat.sky[:, None]


def noisy(flux: Tensor, lat: Latents, optics: Optics, seed: int) -> Tensor:
    """`flux` with the noise of sky and photons; correlated between pixels that are smaller than the telescope's own.

    The sky alone gives hundreds of electrons a pixel, where Poisson's law is Gauss's: one normal draw of the summed variance.
    """
    gain = torch.tensor(optics.telescope.gain, device=flux.device)[:, None, None]
    sigma = torch.sqrt(noise_rms(lat, optics)[:, :, None, None] ** 2 + flux.clamp_min(0) / gain)
    return flux + sigma * unit_noise(lat, optics, flux.shape[1:], seed, flux.device)


def unit_noise(lat: Latents, optics: Optics, shape: tuple[int, ...], seed: int, device: torch.device) -> Tensor:
    """White noise of variance 1 per pixel, or what is left of it after resampling from the telescope's own pixels: [B, bands, H, W]."""
    native, scales = optics.telescope.pixel, optics.pixel_arcsec
    if bool((scales >= native).all()):
        return seeds.normal(seed, "sky", lat.index, shape, device=device)
    bands, size = shape[0], shape[-1]
    parts = []
    for row, scale in enumerate(scales.tolist()):
        # Padded by the reach of the interpolation, so that a stamp's edges know nothing of each other.
        pad = 0 if scale >= native else math.ceil(2 * native / scale)
        side = size + 2 * pad
        white = seeds.normal(seed, "sky", lat.index[row : row + 1], (bands, side, side), device=device)
        transfer = telescopes.correlation(side, scale, native, device)
        if transfer is not None:
            white = torch.fft.irfft2(torch.fft.rfft2(white) * transfer, s=(side, side))
        parts.append(white[..., pad : pad + size, pad : pad + size])
    return torch.cat(parts)
