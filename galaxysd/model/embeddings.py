"""From a noise level and encoded conditions to one vector for each galaxy."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from galaxysd.model.layers import Linear


class NoiseEmbedding(nn.Module):
    """Sines and cosines of the noise coordinate ln(sigma) / 4, at fixed frequencies from 1/4 to 64 turns a unit."""

    frequencies: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        turns = torch.logspace(math.log10(0.25), math.log10(64.0), width // 2)
        self.register_buffer("frequencies", 2 * math.pi * turns, persistent=False)

    def forward(self, noise: Tensor) -> Tensor:
        angle = noise.float()[:, None] * self.frequencies
        return torch.cat((angle.cos(), angle.sin()), -1)


class Embedding(nn.Module):
    """Noise level [B] and condition features [B, F] -> the vector [B, K] that every block's scale and shift are read from."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.noise = NoiseEmbedding(64)
        self.noise_in = Linear(64, width)
        self.condition_in = Linear(features, width)
        self.condition_out = Linear(width, width)
        self.out = Linear(width, width)

    def forward(self, noise: Tensor, features: Tensor, dtype: torch.dtype) -> Tensor:
        condition = self.condition_out(F.silu(self.condition_in(features.to(dtype))))
        return F.silu(self.out(F.silu(self.noise_in(self.noise(noise).to(dtype)) + condition)))
