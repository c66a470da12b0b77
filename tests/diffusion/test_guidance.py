"""Guidance: the extrapolation of two branches, only between its two noise levels."""

from __future__ import annotations

import pytest
import torch

from galaxysd.diffusion.guidance import guided


class Linear:
    """A denoiser that gives the mean of its features, and keeps how many rows it was asked for."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def __call__(self, x, sigma, features):
        self.rows.append(len(x))
        return torch.zeros_like(x) + features.mean(1)[:, None, None, None]


@pytest.mark.parametrize(("sigma", "value", "rows"), [(0.04, 1.0, 2), (0.05, 3.0, 4), (1.0, 3.0, 4), (20.0, 3.0, 4), (21.0, 1.0, 2)])
def test_guidance_acts_inside_its_interval_and_costs_nothing_outside(sigma: float, value: float, rows: int):
    denoiser = Linear()
    denoise = guided(denoiser, torch.ones(2, 3), 3.0, (0.05, 20.0))
    # Without a condition the features are zero, so u + w (c - u) = 0 + 3 (1 - 0).
    assert torch.equal(denoise(torch.zeros(2, 1, 4, 4), sigma), torch.full((2, 1, 4, 4), value))
    assert denoiser.rows == [rows]


def test_strength_one_is_the_conditional_model():
    denoiser = Linear()
    assert torch.equal(guided(denoiser, torch.ones(2, 3), 1.0, (0.0, 80.0))(torch.zeros(2, 1, 4, 4), 1.0), torch.ones(2, 1, 4, 4))
    assert denoiser.rows == [2]
