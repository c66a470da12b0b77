"""A few galaxies that need no renderer: blobs with noise, votes that differ from row to row, numbers of which some are unknown."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from galaxysd import seeds
from galaxysd.data.galaxies import NUMERIC, Frame, Galaxies
from galaxysd.data.schema import GZ2

FRAME = Frame("flux", 16, pixel_scale=0.5, psf_fwhm=(1.3, 1.2, 1.1), sky_rms=(0.01, 0.02, 0.03))


@pytest.fixture
def frame() -> Frame:
    return FRAME


@pytest.fixture
def galaxies() -> Callable[..., Galaxies]:
    """galaxies(n, generated=False, seed=0): generated ones hold what they were asked for, the others votes."""

    def make(n: int, generated: bool = False, seed: int = 0) -> Galaxies:
        x = torch.arange(16) - 7.5
        width = 1.5 + seeds.uniform(seed, "blob", range(n)).float()
        blob = torch.exp(-(x[:, None] ** 2 + x**2) / (2 * width[:, None, None] ** 2))
        images = blob[:, None] * torch.tensor([0.3, 0.6, 0.9])[:, None, None] + 0.02 * seeds.normal(seed, "sky", range(n), (3, 16, 16))
        counts = (seeds.uniform(seed, "votes", range(n), (len(GZ2.answers),)) * 20).floor().float()
        numeric = torch.full((n, len(NUMERIC)), math.nan)
        numeric[:, 1] = 16 + torch.arange(n) / 4
        ids = [f"{'gen' if generated else 'sim'}-{seed}-{i}" for i in range(n)]
        if not generated:
            return Galaxies(images, counts, numeric, torch.arange(n), ids)
        return Galaxies(images, counts * 0, numeric * math.nan, torch.arange(n), ids, cond_counts=counts, cond_numeric=numeric)

    return make
