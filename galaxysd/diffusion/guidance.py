"""Guidance inside an interval of noise levels (Kynkaanniemi et al. 2024): away from no condition, or from a worse model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Evaluate = Callable[[Tensor, Tensor, Tensor], Tensor]  # x [B, C, H, W], sigma [B], features [B, F] -> the expected clean image


@dataclass(frozen=True)
class Guided:
    """denoise(x, sigma) under `features` [B, F]: strength 1 is the plain conditional model.

    With a `guide`, a smaller or earlier model under the same features, strength leads away from its answer (autoguidance, Karras et
    al. 2024); without one, away from the model's own answer to no condition. Inside the interval the model's two branches travel as one
    batch of 2 B; outside it, and at strength 1, nothing but the model is paid for.
    """

    denoiser: Evaluate
    features: Tensor
    strength: float
    interval: tuple[float, float]
    guide: Evaluate | None = None

    def acts(self, sigma: float) -> bool:
        """Whether there is guidance at this noise level: the denoiser is another where this changes."""
        return self.strength != 1.0 and self.interval[0] <= sigma <= self.interval[1]

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        level = x.new_full((x.shape[0],), sigma)
        if not self.acts(sigma):
            return self.denoiser(x, level, self.features)
        if self.guide is not None:
            return self.guide(x, level, self.features).lerp(self.denoiser(x, level, self.features), self.strength)
        both = torch.cat((self.features, torch.zeros_like(self.features)))
        conditional, unconditional = self.denoiser(torch.cat((x, x)), torch.cat((level, level)), both).chunk(2)
        return unconditional.lerp(conditional, self.strength)
