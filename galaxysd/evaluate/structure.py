"""What a size and an ellipse leave out, in batched torch: asymmetry, Gini, M20, and the power spectrum of a stamp.

After Conselice (2003) and Lotz et al. (2004), inside the circle that holds nine tenths of the light; as everywhere in the evaluation
the recipe is one and the same for both sets, and what cannot be measured is NaN.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

BRIGHTEST = 0.2  # share of the light whose second moment is M20
OUTSIDE = 1.2  # in R90: beyond it lies the sky that asymmetry is corrected by
LEAST_PIXELS = 32
FREQUENCIES = (0.03, 0.06, 0.12, 0.25, 0.5)  # edges of the power spectrum's bins, cycles a pixel


def structure(light: Tensor, centre: Tensor, r90: Tensor) -> dict[str, Tensor]:
    """Gives asymmetry, gini and m20, each [B], of `light` [B, S, S] without its sky, about `centre` [B, 2] (x, y from the middle)."""
    size = light.shape[-1]
    axis = torch.arange(size, device=light.device) - (size - 1) / 2
    known = torch.isfinite(centre).all(1) & torch.isfinite(r90)
    middle = torch.where(known[:, None], centre, torch.zeros((), device=light.device))
    distance = torch.hypot((axis[None] - middle[:, :1])[:, None, :], (axis[None] - middle[:, 1:])[:, :, None])
    inside = distance <= torch.where(known, r90, 0.0)[:, None, None]
    found = {
        "asymmetry": asymmetry(light, middle, inside, distance > OUTSIDE * r90[:, None, None]),
        "gini": gini(light.abs().flatten(1), inside.flatten(1)),
        "m20": m20(light.flatten(1), distance.flatten(1), inside.flatten(1)),
    }
    return {name: torch.where(known, column, torch.nan).float() for name, column in found.items()}


def asymmetry(light: Tensor, centre: Tensor, inside: Tensor, outside: Tensor) -> Tensor:
    """Light that half a turn about the centre moves, over the light, less what it moves of the sky outside: 0 is symmetric."""
    size = light.shape[-1]
    axis = torch.arange(size, device=light.device) - (size - 1) / 2
    x, y = (2 * centre[:, at, None] - axis for at in (0, 1))  # [B, S], where each pixel's opposite lies
    seen = (x.abs() <= axis[-1])[:, None, :] & (y.abs() <= axis[-1])[:, :, None]
    # Half a turn about the middle, then a shift by twice the centre: in Fourier space, where no interpolation smooths the galaxy.
    frequency = torch.fft.fftfreq(size, device=light.device)
    shift = [torch.exp(-4j * torch.pi * frequency * centre[:, at, None]) for at in (0, 1)]
    turned = torch.fft.ifft2(torch.fft.fft2(light.flip(-1, -2)) * shift[1][:, :, None] * shift[0][:, None, :]).real
    moved = (light - turned).abs()
    inside, outside = inside & seen, outside & seen
    sky = (moved * outside).sum((1, 2)) / outside.sum((1, 2))
    value = ((moved * inside).sum((1, 2)) - sky * inside.sum((1, 2))) / (light.abs() * inside).sum((1, 2))
    return torch.where(outside.sum((1, 2)) >= LEAST_PIXELS, value, torch.nan)


def gini(values: Tensor, inside: Tensor) -> Tensor:
    """How unevenly the light lies on the pixels `inside`, of `values` [B, P] >= 0: 0 even, 1 all in one pixel."""
    ordered = torch.where(inside, values, torch.inf).double().sort(1).values
    n = inside.sum(1, keepdim=True)
    rank = torch.arange(1, values.shape[1] + 1, device=values.device)
    counted = torch.where(rank <= n, ordered, 0.0)
    weighed = ((2 * rank - n - 1) * counted).sum(1)
    return torch.where(n[:, 0] >= 2, weighed / (counted.sum(1) * (n[:, 0] - 1)), torch.nan)


def m20(light: Tensor, distance: Tensor, inside: Tensor) -> Tensor:
    """log10 of the second moment of the brightest pixels that hold a fifth of the light, over that of all of them."""
    flux = torch.where(inside, light, 0.0).double()
    order = torch.where(inside, light, -torch.inf).argsort(1, descending=True)
    flux, moment = flux.gather(1, order), (flux * distance.double() ** 2).gather(1, order)
    brightest = flux.cumsum(1) <= BRIGHTEST * flux.sum(1, keepdim=True)
    brightest[:, 0] = True
    share = (moment * brightest).sum(1) / moment.sum(1)
    return torch.where(share > 0, share.clamp_min(1e-12).log10(), torch.nan)


def power(light: Tensor) -> dict[str, Tensor]:
    """log10 of the mean power of `light` [B, S, S] in each bin of spatial frequency, over its flux squared: one [B] a bin.

    Blur empties the highest bins, missing or added noise moves them; galaxies fill the lowest.
    """
    size = light.shape[-1]
    spectrum = torch.fft.fft2(light.double()).abs().square()
    frequency = torch.hypot(torch.fft.fftfreq(size)[:, None], torch.fft.fftfreq(size)[None]).to(light.device)
    flux = light.double().sum((1, 2))
    found = {}
    for low, high in itertools.pairwise(FREQUENCIES):
        ring = (frequency >= low) & (frequency < high)
        mean = spectrum[:, ring].mean(1) / flux.square()
        found[f"power_{low:g}-{high:g}"] = torch.where((flux > 0) & (mean > 0), mean.clamp_min(1e-30).log10(), torch.nan).float()
    return found
