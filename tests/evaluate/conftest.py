"""Galaxies whose every property is known: sampled Gaussians of given flux, width, shape and place."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from galaxysd import seeds
from galaxysd.data.galaxies import Frame, Galaxies
from galaxysd.data.schema import GZ2


@pytest.fixture(scope="session")
def frame() -> Frame:
    return Frame("flux", 32, pixel_scale=0.8)


@pytest.fixture(scope="session")
def gaussian() -> Callable[..., Tensor]:
    """One image [1, C, size, size] of a Gaussian with the given flux per band; sampling is exact to 1e-8 from 1.5 pixels of width."""

    def draw(
        flux: tuple[float, ...] = (5.0, 10.0, 20.0),
        sigma: float = 3.0,
        axis_ratio: float = 1.0,
        angle: float = 0.0,
        centre: tuple[float, float] = (0.0, 0.0),
        size: int = 64,
    ) -> Tensor:
        axis = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
        x, y = axis[None] - centre[0], axis[:, None] - centre[1]
        along, across = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
        shape = torch.exp(-0.5 * (along**2 + (across / axis_ratio) ** 2) / sigma**2) / (2 * math.pi * sigma**2 * axis_ratio)
        return (torch.tensor(flux, dtype=torch.float64)[:, None, None] * shape)[None].float()

    return draw


@pytest.fixture(scope="session")
def survey(gaussian: Callable[..., Tensor]) -> Callable[..., Galaxies]:
    """n galaxies of a small survey, half of them round and half cigars, with votes and magnitudes; all keyed by (seed, index)."""

    def draw(n: int, seed: int, prefix: str = "real", brighter: float = 1.0, larger: float = 1.0) -> Galaxies:
        a, b, c, d = seeds.uniform(seed, "test-survey", range(n), (4,)).T
        cigar = torch.arange(n) % 2 == 1
        magnitude = 15.0 + 2.0 * a
        flux = brighter * 10 ** (0.4 * (22.5 - magnitude))
        shape = torch.cat(
            [
                gaussian((1.0,), (2.5 + width) * larger, 0.35 if thin else 0.95, math.pi * angle, (place - 0.5, 0.0), 32)
                for width, angle, place, thin in zip(b.tolist(), c.tolist(), d.tolist(), cigar.tolist(), strict=True)
            ]
        )
        bands = torch.stack((0.4 + 0.02 * b, torch.ones(n), torch.full((n,), 1.4)), 1) * flux[:, None]
        counts, numeric = torch.zeros(n, len(GZ2.answers)), torch.full((n, 5), torch.nan)
        for answer, votes in (("smooth-or-featured_smooth", 40), ("something-odd_no", 40), ("how-rounded_in-between", 8)):
            counts[:, GZ2.index(answer)] = votes
        counts[cigar, GZ2.index("how-rounded_cigar")] = 32
        counts[~cigar, GZ2.index("how-rounded_round")] = 32
        numeric[:, 1] = magnitude
        sky = 0.02 * seeds.normal(seed, "test-sky", range(n), (3, 32, 32))
        images = (shape * bands[:, :, None, None]).float() + sky
        return Galaxies(images, counts, numeric, torch.arange(n), [f"{prefix}-{seed}-{row}" for row in range(n)])

    return draw
