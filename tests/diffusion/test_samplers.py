"""Samplers against an oracle: for Gaussian data the ideal denoiser is known, and so is where the ODE ends."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from galaxysd.config import DiffusionConfig
from galaxysd.diffusion.guidance import guided
from galaxysd.diffusion.samplers import EVALUATIONS, SAMPLERS, levels

SPREAD = 0.5


def ideal(x, sigma):
    """E[x0 | x] for x0 ~ N(0, SPREAD^2)."""
    return x * SPREAD**2 / (SPREAD**2 + sigma**2)


def error(name: str, steps: int) -> float:
    """Relative error at sigma_min, where x(sigma) = x(sigma_max) * sqrt((s^2 + sigma_min^2) / (s^2 + sigma_max^2)) exactly."""
    config = DiffusionConfig()
    sigmas = levels(config, steps)[:-1]
    x = SAMPLERS[name](ideal, torch.full((1, 1, 1, 1), sigmas[0], dtype=torch.float64), sigmas)
    exact = sigmas[0] * math.sqrt((SPREAD**2 + sigmas[-1] ** 2) / (SPREAD**2 + sigmas[0] ** 2))
    return abs(float(x) / exact - 1)


@pytest.mark.parametrize(("name", "low", "high"), [("heun", 3.5, 5.0), ("dpmpp_2m", 3.3, 5.0), ("euler", 1.8, 2.3)])
def test_order_of_convergence(name, low, high):
    ratios = [error(name, steps) / error(name, 2 * steps) for steps in (64, 128)]
    assert all(low < ratio < high for ratio in ratios), ratios


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_ends_in_the_data(name):
    """From noise at sigma_max to samples of the data's own spread, last step to zero included."""
    draw = torch.randn(4096, 1, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sigmas = levels(DiffusionConfig(), 64)
    x = SAMPLERS[name](ideal, draw * sigmas[0], sigmas)
    assert abs(float(x.std()) / SPREAD - 1) < 0.05
    assert abs(float(x.mean())) < 0.03


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_counts_its_evaluations(name):
    calls = []

    def counting(x, sigma):
        calls.append(sigma)
        return ideal(x, sigma)

    SAMPLERS[name](counting, torch.ones(1, 1, 1, 1), levels(DiffusionConfig(), 7))
    assert len(calls) == EVALUATIONS[name](7)


def test_levels_fall_from_the_first_to_zero():
    config = DiffusionConfig()
    sigmas = levels(config, 18)
    assert len(sigmas) == 19
    assert sigmas[-1] == 0
    assert sigmas[0] == pytest.approx(config.sigma_max)
    assert sigmas[-2] == pytest.approx(config.sigma_min)
    assert all(a > b for a, b in pairwise(sigmas))


class Answers:
    """A denoiser that gives its condition: what guidance mixes can then be read off."""

    def __init__(self):
        self.batches = []

    def __call__(self, x, sigma, features):
        self.batches.append(len(x))
        return features[:, :1, None, None].expand_as(x) + 1


def test_guidance_acts_inside_its_interval_only():
    net, x = Answers(), torch.zeros(3, 1, 2, 2)
    denoise = guided(net, torch.ones(3, 4), strength=3.0, interval=(0.1, 10.0))
    assert float(denoise(x, 1.0).mean()) == pytest.approx(1 + 3.0)  # 1 + (2 - 1) * 3
    assert float(denoise(x, 20.0).mean()) == pytest.approx(2)
    assert float(denoise(x, 0.05).mean()) == pytest.approx(2)
    assert net.batches == [6, 3, 3]
