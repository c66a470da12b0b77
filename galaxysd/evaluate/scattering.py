"""Scattering coefficients: a feature space made of wavelets alone, with nothing to download and nothing trained.

After Mallat (2012) and Bruna and Mallat (2013): the light that Morlet wavelets find at each scale, |I * psi_j,theta|, and what a second
wavelet finds in that, averaged over the stamp and over the direction of the first. A turned or shifted galaxy keeps its coefficients;
blur, noise and grain move them.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

DIRECTIONS = 4  # over half a turn
CENTRE, WIDTH = 0.75 * math.pi, 0.8  # of the finest wavelet: radians a pixel, pixels
SLANT = 0.5  # of the envelope across its direction
TINY = 1e-6
PIECE = 32  # stamps at a time: what a cache holds


def scales(size: int) -> int:
    """How many octaves a stamp has room for."""
    return max(1, int(math.log2(size)) - 2)


@lru_cache(maxsize=8)
def filters(size: int) -> Tensor:
    """The wavelets in Fourier space, real, [scales, DIRECTIONS, size, size]: no answer to a constant, peak answer about 1."""
    ky, kx = torch.meshgrid(*[2 * math.pi * torch.fft.fftfreq(size, dtype=torch.float64)] * 2, indexing="ij")
    bank = []
    for scale in range(scales(size)):
        for turn in range(DIRECTIONS):
            angle = math.pi * turn / DIRECTIONS
            # A sharp grid repeats its spectrum: the copies that reach into the first zone belong to the wavelet.
            total = torch.zeros_like(kx)
            for shift_y in (-1, 0, 1):
                for shift_x in (-1, 0, 1):
                    total += _morlet(kx + 2 * math.pi * shift_x, ky + 2 * math.pi * shift_y, 2.0**scale, angle)
            total[0, 0] = 0
            bank.append(total)
    return torch.stack(bank).reshape(scales(size), DIRECTIONS, size, size).float()


def _morlet(kx: Tensor, ky: Tensor, stretch: float, angle: float) -> Tensor:
    along, across = kx * math.cos(angle) + ky * math.sin(angle), ky * math.cos(angle) - kx * math.sin(angle)
    width, centre = WIDTH * stretch, CENTRE / stretch

    def bump(at: float) -> Tensor:
        return torch.exp(-0.5 * width**2 * ((along - at) ** 2 + (across / SLANT) ** 2))

    return bump(centre) - math.exp(-0.5 * (width * centre) ** 2) * bump(0.0)


def scattering(images: Tensor, band: int) -> Tensor:
    """Log coefficients [B, F] of `images` [B, C, S, S], which are stretched; the second order is taken of one band only.

    First order: each band and scale. Second order: each pair of a finer and a coarser scale and each angle between the two wavelets,
    relative to the first order. A row that is not finite has NaN.
    """
    bank = filters(images.shape[-1]).to(images.device)
    return torch.cat([_scattered(part, band, bank) for part in images.split(PIECE)])


def _scattered(images: Tensor, band: int, bank: Tensor) -> Tensor:
    found = []
    spectra = torch.fft.fft2(images.float())
    for channel in range(images.shape[1]):
        for scale, wavelets in enumerate(bank):
            modulus = torch.fft.ifft2(spectra[:, channel, None] * wavelets).abs()  # [B, DIRECTIONS, S, S]
            first = modulus.mean((-1, -2))
            found.append((first.mean(1) + TINY).log())
            if channel != band:
                continue
            again = torch.fft.fft2(modulus)
            for coarser in bank[scale + 1 :]:
                second = torch.fft.ifft2(again[:, :, None] * coarser).abs().mean((-1, -2)) / (first[:, :, None] + TINY)
                # The angle between both, averaged over the first one's direction; plus and minus are one galaxy and its mirror.
                turned = torch.stack([second[:, t].roll(-t, -1) for t in range(DIRECTIONS)]).mean(0)
                between = [
                    turned[:, d] if d in (0, DIRECTIONS // 2) else 0.5 * (turned[:, d] + turned[:, -d]) for d in range(DIRECTIONS // 2 + 1)
                ]
                found += [(each + TINY).log() for each in between]
    return torch.stack(found, 1)
