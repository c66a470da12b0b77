"""Guidance: the extrapolation of two branches, only between its two noise levels; the second one is no condition, or a guide."""

from __future__ import annotations

import pytest
import torch

from galaxysd.diffusion.guidance import Guided


class Linear:
    """A denoiser that gives a number times the mean of its features, and keeps how many rows it was asked for."""

    def __init__(self, times: float = 1.0) -> None:
        self.times, self.rows = times, []

    def __call__(self, x, sigma, features):
        self.rows.append(len(x))
        return torch.zeros_like(x) + self.times * features.mean(1)[:, None, None, None]


@pytest.mark.parametrize(("sigma", "value", "rows"), [(0.04, 1.0, 2), (0.05, 3.0, 4), (1.0, 3.0, 4), (20.0, 3.0, 4), (21.0, 1.0, 2)])
def test_guidance_acts_inside_its_interval_and_costs_nothing_outside(sigma: float, value: float, rows: int):
    denoiser = Linear()
    denoise = Guided(denoiser, torch.ones(2, 3), 3.0, (0.05, 20.0))
    # Without a condition the features are zero, so u + w (c - u) = 0 + 3 (1 - 0).
    assert torch.equal(denoise(torch.zeros(2, 1, 4, 4), sigma), torch.full((2, 1, 4, 4), value))
    assert denoiser.rows == [rows]
    assert denoise.acts(sigma) == (rows == 4)


def test_strength_one_is_the_conditional_model():
    denoiser = Linear()
    denoise = Guided(denoiser, torch.ones(2, 3), 1.0, (0.0, 80.0))
    assert torch.equal(denoise(torch.zeros(2, 1, 4, 4), 1.0), torch.ones(2, 1, 4, 4))
    assert denoiser.rows == [2]


@pytest.mark.parametrize(("strength", "sigma", "value", "asked"), [(3.0, 1.0, 2.0, [2]), (3.0, 30.0, 1.0, []), (1.0, 1.0, 1.0, [])])
def test_a_guide_stands_in_for_no_condition_and_is_asked_only_where_it_counts(strength, sigma, value, asked):
    model, guide = Linear(), Linear(times=0.5)
    denoise = Guided(model, torch.ones(2, 3), strength, (0.05, 20.0), guide)
    # The guide answers to the same features: g + w (c - g) = 0.5 + 3 (1 - 0.5).
    assert torch.equal(denoise(torch.zeros(2, 1, 4, 4), sigma), torch.full((2, 1, 4, 4), value))
    assert guide.rows == asked
    assert model.rows == [2]  # and the model never to no condition
