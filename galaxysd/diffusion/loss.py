"""The training loss of EDM (Karras et al. 2022, equations 2 and 8): weighted squared error of the denoised image."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from galaxysd import seeds
from galaxysd.config import DiffusionConfig
from galaxysd.diffusion.denoiser import Denoiser


def draw_sigma(config: DiffusionConfig, seed: int, step: int, rows: Tensor, batch: int) -> Tensor:
    """Noise levels of rows (their places in the global batch) of one step, ln sigma ~ N(p_mean, p_std^2), float32 [B].

    The batch shares one offset and its rows stand evenly behind it, so that every step sees all noise levels: the mean is the
    same, the variance of the loss is less.
    """
    offset = seeds.uniform(seed, "train-sigma", step, device=rows.device)
    u = (offset + rows.double() / batch) % 1.0
    z = math.sqrt(2.0) * torch.erfinv(2.0 * u.clamp(1e-7, 1 - 1e-7) - 1.0)
    return torch.exp(config.p_mean + config.p_std * z).float()


def edm_loss(denoiser: Denoiser, x0: Tensor, features: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
    """Gives the weighted squared error of each galaxy, [B]: of order 1 for an untrained network at any noise level."""
    d = denoiser.config.sigma_data
    weight = (sigma**2 + d**2) / (sigma * d) ** 2
    error = denoiser(x0 + noise * sigma[:, None, None, None], sigma, features) - x0
    return weight * error.square().mean((1, 2, 3))
