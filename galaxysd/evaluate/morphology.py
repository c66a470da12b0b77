"""Physical measurements of stamps, in batched torch: sky, flux, colour, size, concentration, shape.

The same recipe measures generated and real galaxies, so what it leaves out (blending, the wings outside the stamp, the PSF) is left
out on both sides. What cannot be measured is NaN, and whoever reads the table counts the NaNs.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d, pad

from galaxysd.data.galaxies import Frame
from galaxysd.evaluate import structure

ROUNDS = 20  # adaptive moments halve their distance from the fixed point each round
WIDEST = 5  # the weight's width is at most the stamp's over this
NARROWEST = 0.1  # least variance of the weight, in square pixels
FINE = 10  # growth-curve bins in a pixel
MAD = 1.4826  # median absolute deviation to standard deviation of a Gaussian


def reference_band(frame: Frame) -> int:
    """The band whose light defines size and shape: r where there is one."""
    return frame.bands.index("r") if "r" in frame.bands else len(frame.bands) // 2


def measure(images: Tensor, frame: Frame) -> dict[str, Tensor]:
    """Gives named properties, each float32 [B], of `images` [B, C, H, W]; NaN where one cannot be measured.

    flux sets: sky, noise and flux per band in the unit of the frame, magnitudes, colours of neighbouring bands; and for every set
    r50 and r90 (pixels), concentration r90/r50, ellipticity 1 - b/a, asymmetry, Gini, M20 and
    the power spectrum. On rgb sets sizes are of the stretched picture: relative only.
    """
    whole = torch.isfinite(images.float()).flatten(1).all(1)
    images = torch.where(whole[:, None, None, None], images.float(), torch.zeros((), device=images.device))
    if frame.kind == "rgb":
        images = images / 255.0
    sky, noise = local_sky(images)
    light = images - sky[:, :, None, None]
    found: dict[str, Tensor] = {}
    if frame.kind == "flux":
        flux = light.double().sum((-2, -1)).float()  # [B, C]
        zero = torch.tensor(frame.zero_points, device=flux.device)
        magnitude = torch.where(flux > 0, zero - 2.5 * torch.log10(flux.clamp_min(1e-30)), torch.nan)
        for name, column in (("flux", flux), ("magnitude", magnitude), ("sky", sky), ("noise", noise)):
            found |= {f"{name}_{band}": column[:, c] for c, band in enumerate(frame.bands)}
        for c, (blue, red) in enumerate(zip(frame.bands, frame.bands[1:], strict=False)):
            found[f"colour_{blue}-{red}"] = magnitude[:, c] - magnitude[:, c + 1]
        detection = light[:, reference_band(frame)]
    else:
        found["display_level"] = images.mean((1, 2, 3))
        detection = light.mean(1)
    centre, covariance = adaptive_moments(detection)
    found["r50"], found["r90"] = radii(detection, centre, (0.5, 0.9)).unbind(-1)
    found["concentration"] = found["r90"] / found["r50"]
    found["ellipticity"] = ellipticity(covariance)
    found |= structure.structure(detection, centre, found["r90"]) | structure.power(detection)
    return {name: torch.where(whole, column, torch.nan) for name, column in found.items()}


def unit(name: str, frame: Frame) -> str:
    """The unit a property is in."""
    kind = name.split("_")[0]
    if kind in ("flux", "sky", "noise"):
        return frame.unit + ("" if kind == "flux" else "/pixel")
    return {"magnitude": "mag", "colour": "mag", "r50": "pixels", "r90": "pixels"}.get(kind, "")


def local_sky(images: Tensor) -> tuple[Tensor, Tensor]:
    """Median and robust rms of the border of each stamp and band: two [B, C]."""
    size = images.shape[-1]
    width = max(2, size // 16)
    inner = torch.ones(size, size, dtype=torch.bool, device=images.device)
    inner[width:-width, width:-width] = False
    border = images[..., inner]  # [B, C, P]
    sky = _median(border)
    return sky, MAD * _median((border - sky[..., None]).abs())


def _median(values: Tensor) -> Tensor:
    # The mean of both middle values: torch.median takes the lower one, which is biased in a noisy border.
    ordered = values.sort(-1).values
    n = values.shape[-1]
    return 0.5 * (ordered[..., (n - 1) // 2] + ordered[..., n // 2])


def adaptive_moments(image: Tensor) -> tuple[Tensor, Tensor]:
    """Centroid [B, 2] (x, y in pixels from the middle of the stamp) and covariance [B, 2, 2] of `image` [B, H, W], without its sky.

    Each round weighs the light by the Gaussian that the last one found (Bernstein and Jarvis 2002): for a Gaussian galaxy the fixed
    point is its own covariance. The weight stays within the stamp, or wide wings and neighbours would let it grow without end. NaN where
    the centroid leaves the middle half of the stamp (a neighbour outshines the galaxy) or there is no light.
    """
    size = image.shape[-1]
    axis = torch.arange(size, device=image.device) - (size - 1) / 2
    light = image.double()
    n = len(image)
    x0, y0 = light.new_zeros(n), light.new_zeros(n)
    xx, yy, xy = light.new_full((n,), (size / 6) ** 2), light.new_full((n,), (size / 6) ** 2), light.new_zeros(n)
    good = torch.ones(n, dtype=torch.bool, device=image.device)
    for _ in range(ROUNDS):
        dx = (axis[None] - x0[:, None])[:, None, :]  # [B, 1, W]
        dy = (axis[None] - y0[:, None])[:, :, None]  # [B, H, 1]
        det = xx * yy - xy * xy
        form = (yy / det)[:, None, None] * dx**2 - 2 * (xy / det)[:, None, None] * dx * dy + (xx / det)[:, None, None] * dy**2
        weighed = torch.exp(-0.5 * form) * light
        total = weighed.sum((1, 2))

        def mean(of: Tensor, weighed: Tensor = weighed, total: Tensor = total) -> Tensor:
            return (weighed * of).sum((1, 2)) / total

        # A matched Gaussian weight halves both the covariance and the step of the centroid. Only the covariance is doubled: a doubled step
        # overshoots on a narrow core in wide wings, and swings out further each round.
        step_x, step_y = mean(dx), mean(dy)
        new = (2 * mean(dx * dx), 2 * mean(dy * dy), 2 * mean(dx * dy))
        good = good & (total > 0) & (new[0] > 0) & (new[1] > 0)
        fit = (2 * (size / WIDEST) ** 2 / (new[0] + new[1])).clamp(max=1.0)
        new = (new[0] * fit, new[1] * fit, new[2] * fit)
        # A star-like core in coarse pixels: a weight narrower than its pixel would see one pixel and nothing of a shape.
        least = 0.5 * (new[0] + new[1]) - torch.sqrt(0.25 * (new[0] - new[1]) ** 2 + new[2] ** 2)
        lift = (NARROWEST - least).clamp_min(0.0)
        new = (new[0] + lift, new[1] + lift, new[2])
        good = good & ((x0 + step_x).abs() < size / 4) & ((y0 + step_y).abs() < size / 4)
        x0, y0 = torch.where(good, x0 + step_x, x0), torch.where(good, y0 + step_y, y0)
        xx, yy, xy = (torch.where(good, fresh, old) for fresh, old in zip(new, (xx, yy, xy), strict=True))
    centre = torch.where(good[:, None], torch.stack((x0, y0), -1), torch.nan)
    covariance = torch.stack((torch.stack((xx, xy), -1), torch.stack((xy, yy), -1)), -2)
    return centre.float(), torch.where(good[:, None, None], covariance, torch.nan).float()


def ellipticity(covariance: Tensor) -> Tensor:
    """1 - b/a of the ellipse of `covariance` [B, 2, 2]: 0 is round."""
    xx, yy, xy = covariance[:, 0, 0], covariance[:, 1, 1], covariance[:, 0, 1]
    middle, half = 0.5 * (xx + yy), torch.sqrt(0.25 * (xx - yy) ** 2 + xy**2)
    return 1.0 - torch.sqrt((middle - half).clamp_min(0) / (middle + half))


def radii(image: Tensor, centre: Tensor, shares: tuple[float, ...]) -> Tensor:
    """The radii of circles about `centre` that first hold these shares of the stamp's light: [B, shares] in pixels."""
    size = image.shape[-1]
    axis = torch.arange(size, device=image.device) - (size - 1) / 2
    known = torch.isfinite(centre).all(1)
    middle = torch.where(known[:, None], centre, torch.zeros((), device=image.device))
    distance = torch.hypot((axis[None] - middle[:, :1])[:, None, :], (axis[None] - middle[:, 1:])[:, :, None])  # [B, H, W]
    bins = 2 * size * FINE
    place = (distance * FINE).round().long().flatten(1)
    rings = torch.zeros(len(image), bins, dtype=torch.float64, device=image.device).scatter_add_(1, place, image.double().flatten(1))
    total = rings.sum(1)
    # A pixel is a pixel wide: it enters the circle gradually, over the pixel that its centre is in the middle of.
    growth = avg_pool1d(pad(rings.cumsum(1)[:, None], (FINE // 2, FINE // 2), mode="replicate"), FINE + 1, 1)[:, 0]
    growth = growth / total[:, None]
    found = []
    for share in shares:
        outside = (growth >= share).int().argmax(1).clamp_min(1)  # the first circle that holds the share
        upper, lower = growth.gather(1, outside[:, None])[:, 0], growth.gather(1, outside[:, None] - 1)[:, 0]
        # Bin k holds distances that round to k: its sum reaches out to k + 1/2.
        found.append((outside + 0.5 - (upper - share) / (upper - lower).clamp_min(1e-12)) / FINE)
    radius = torch.stack(found, -1)
    # Light that sums to little or falls outwards has no such circle: the curve's crossing is nowhere near the stamp.
    measured = (known & (total > 0))[:, None] & (radius > 0) & (radius < 2 * size)
    return torch.where(measured, radius, torch.nan).float()
