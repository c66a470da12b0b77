"""Solvers of the probability-flow ODE dx/dsigma = (x - D(x; sigma)) / sigma, as free functions of a denoiser.

Each takes `denoise(x, sigma)` with sigma a float, x at the first of some falling noise levels, and gives the image at the last. `solve`
runs one over all of them, afresh wherever the denoiser becomes another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor

from galaxysd.config import DiffusionConfig

Denoise = Callable[[Tensor, float], Tensor]
Sampler = Callable[[Denoise, Tensor, Sequence[float]], Tensor]
Branch = Callable[[float], object]


def levels(config: DiffusionConfig, steps: int) -> list[float]:
    """The noise levels of EDM, equation 5: `steps` from sigma_max to sigma_min, then 0."""
    low, high = config.sigma_min ** (1 / config.rho), config.sigma_max ** (1 / config.rho)
    ramp = [(high + (i / max(steps - 1, 1)) * (low - high)) ** config.rho for i in range(steps)]
    return [*ramp, 0.0]


def solve(sampler: str, denoise: Denoise, x: Tensor, sigmas: Sequence[float], branch: Branch) -> Tensor:
    """The image at the last level, from x at the first; `branch(sigma)` names the denoiser that answers at a level.

    A solver that remembers earlier answers extrapolates them: across a change of denoiser that is wrong, so none sees past it.
    """
    for part in stretches(sigmas, branch):
        x = SAMPLERS[sampler](denoise, x, part)
    return x


def stretches(sigmas: Sequence[float], branch: Branch) -> list[list[float]]:
    """The levels, cut where the branch changes: each part begins at the level where the one before it ends."""
    parts = [[sigmas[0]]]
    for before, now in pairwise(sigmas):
        parts[-1].append(now)
        if now > 0 and branch(now) != branch(before):
            parts.append([now])
    return [part for part in parts if len(part) > 1]


def euler(denoise: Denoise, x: Tensor, sigmas: Sequence[float]) -> Tensor:
    """First order; one evaluation a step."""
    for now, after in pairwise(sigmas):
        x = denoise(x, now).lerp(x, after / now)
    return x


def heun(denoise: Denoise, x: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Second order (EDM, algorithm 1); two evaluations a step, one in the last step to zero."""
    for now, after in pairwise(sigmas):
        slope = (x - denoise(x, now)) / now
        ahead = x + (after - now) * slope
        if after > 0:
            slope = 0.5 * (slope + (ahead - denoise(ahead, after)) / after)
            ahead = x + (after - now) * slope
        x = ahead
    return x


def dpmpp_2m(denoise: Denoise, x: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Second order with one evaluation a step: DPM-Solver++(2M) (Lu et al. 2022) for the variance-exploding ODE."""
    before: Tensor | None = None
    step_before = 0.0
    for now, after in pairwise(sigmas):
        x0 = denoise(x, now)
        if after == 0:
            return x0
        step = math.log(now / after)
        direction = x0
        if before is not None:
            ratio = step_before / step
            direction = x0 + (x0 - before) / (2 * ratio)
        x = direction.lerp(x, after / now)
        before, step_before = x0, step
    return x


SAMPLERS: dict[str, Sampler] = {"euler": euler, "heun": heun, "dpmpp_2m": dpmpp_2m}
EVALUATIONS = {"euler": lambda steps: steps, "heun": lambda steps: 2 * steps - 1, "dpmpp_2m": lambda steps: steps}
