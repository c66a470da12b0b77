"""Classifier-free guidance inside an interval of noise levels (Kynkaanniemi et al. 2024)."""

from __future__ import annotations

import torch
from torch import Tensor

from galaxysd.diffusion.denoiser import Denoiser
from galaxysd.diffusion.samplers import Denoise


def guided(denoiser: Denoiser, features: Tensor, strength: float, interval: tuple[float, float]) -> Denoise:
    """Gives denoise(x, sigma) under `features` [B, F]: strength 1 is the plain conditional model.

    Inside the interval both branches travel as one batch of 2 B; outside it there is no unconditional branch to pay for.
    """
    both = torch.cat((features, torch.zeros_like(features)))

    def denoise(x: Tensor, sigma: float) -> Tensor:
        if strength == 1.0 or not interval[0] <= sigma <= interval[1]:
            return denoiser(x, x.new_full((x.shape[0],), sigma), features)
        pair = denoiser(torch.cat((x, x)), x.new_full((2 * x.shape[0],), sigma), both)
        conditional, unconditional = pair.chunk(2)
        return unconditional.lerp(conditional, strength)

    return denoise
