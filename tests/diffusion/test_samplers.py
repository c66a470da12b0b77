"""Samplers against an oracle: for Gaussian data the ideal denoiser is known, and so is where the ODE ends."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from galaxysd.config import DiffusionConfig
from galaxysd.diffusion.guidance import Guided
from galaxysd.diffusion.samplers import EVALUATIONS, SAMPLERS, levels, solve, stretches

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
    denoise = Guided(net, torch.ones(3, 4), strength=3.0, interval=(0.1, 10.0))
    assert float(denoise(x, 1.0).mean()) == pytest.approx(1 + 3.0)  # 1 + (2 - 1) * 3
    assert float(denoise(x, 20.0).mean()) == pytest.approx(2)
    assert float(denoise(x, 0.05).mean()) == pytest.approx(2)
    assert net.batches == [6, 3, 3]


class Bent:
    """A denoiser whose answer to a condition and to none differ at every level."""

    def __call__(self, x, sigma, features):
        return x * (0.2 + 0.1 * features.mean(1)[:, None, None, None]) / (1 + sigma[:, None, None, None])


@pytest.mark.parametrize("name", sorted(SAMPLERS))
@pytest.mark.parametrize("interval", [(1.0, 100.0), (0.0, 1.0), (0.3, 3.0)])
def test_after_an_edge_of_guidance_the_way_is_that_of_a_fresh_start(name, interval):
    sigmas = levels(DiffusionConfig(), 12)
    denoise = Guided(Bent(), torch.ones(2, 3), 4.0, interval)
    x = torch.linspace(-3.0, 3.0, 8).reshape(2, 1, 2, 2) * sigmas[0]
    whole = solve(name, denoise, x, sigmas, denoise.acts)
    parts = stretches(sigmas, denoise.acts)
    assert [len({denoise.acts(sigma) for sigma in part[:-1]}) for part in parts] == [1] * len(parts)
    assert [*(level for part in parts for level in part[:-1]), 0.0] == sigmas
    assert len(parts) == 2 + (interval == (0.3, 3.0))
    for part in parts:
        x = SAMPLERS[name](denoise, x, part)
    assert torch.equal(x, whole)
    blind = SAMPLERS[name](denoise, torch.linspace(-3.0, 3.0, 8).reshape(2, 1, 2, 2) * sigmas[0], sigmas)
    assert torch.equal(blind, whole) == (name != "dpmpp_2m")  # the others remember nothing


@pytest.mark.parametrize(("cut", "low", "high"), [(True, 3.3, 5.0), (False, 1.5, 2.6)])
def test_second_order_holds_across_an_edge_only_where_history_is_dropped(cut, low, high):
    """Data of one spread above an edge and of another below: the way is known exactly, and the edge stands on a level of every grid."""
    config, spreads = DiffusionConfig(), (2.0, 0.3)
    edge = levels(config, 65)[32]

    def above(sigma: float) -> bool:
        return sigma > edge * (1 + 1e-9)

    def denoise(x, sigma):
        s = spreads[0] if above(sigma) else spreads[1]
        return x * s**2 / (s**2 + sigma**2)

    def error(steps: int) -> float:
        sigmas = levels(config, steps)[:-1]
        x = solve("dpmpp_2m", denoise, torch.ones(1, 1, 1, 1, dtype=torch.float64), sigmas, above if cut else lambda sigma: None)
        exact = 1.0
        for s, start, end in ((spreads[0], sigmas[0], edge), (spreads[1], edge, sigmas[-1])):
            exact *= math.sqrt((s**2 + end**2) / (s**2 + start**2))
        return abs(float(x) / exact - 1)

    ratios = [error(65 + 64 * k) / error(129 + 128 * k) for k in (0, 1)]
    assert all(low < ratio < high for ratio in ratios), ratios
