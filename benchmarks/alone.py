"""What no fusion can take away: a network's convolutions alone; and beside them what the machine itself can do, in the same turns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import ceilings
from benchmarks.counting import given
from galaxysd import seeds
from galaxysd.config import Config, ModelConfig
from galaxysd.diffusion.denoiser import Denoiser
from galaxysd.diffusion.guidance import Guided
from galaxysd.diffusion.samplers import levels, solve
from galaxysd.model.layers import Conv


class Convolutions:
    """The convolutions of a network's pass, on maps of their own: forward, and both gradients."""

    def __init__(self, denoiser: Denoiser, config: ModelConfig, features: int, batch: int) -> None:
        self.calls: list[tuple[Tensor, Tensor, Tensor, tuple[int, ...], Any]] = []
        hooks = [each.register_forward_hook(self._saw) for each in denoiser.net.modules() if isinstance(each, Conv)]
        with torch.no_grad():
            denoiser(*given(config, features, batch, next(denoiser.net.parameters()).device))
        for hook in hooks:
            hook.remove()

    def _saw(self, module: Any, inputs: tuple[Tensor, ...], out: Tensor) -> None:
        x = inputs[0] if len(inputs) == 1 else torch.cat(inputs, 1)
        weight = module.weight.detach().to(x.dtype, memory_format=torch.preserve_format)
        made = seeds.normal(0, "benchmark-map", len(self.calls), x.shape)[0].to(x)
        x = torch.empty_like(x).copy_(made)
        self.calls.append((x, weight, torch.ones_like(out), tuple(module.stride), module.padding))

    @property
    def gflop(self) -> float:
        """Of one forward pass over the whole batch; either gradient takes as many."""
        return sum(2 * gradient.numel() * weight[0].numel() for _, weight, gradient, _, _ in self.calls) / 1e9

    def train(self) -> None:
        """Forward and backward of all."""
        for x, weight, gradient, stride, padding in self.calls:
            F.conv2d(x, weight, None, stride, padding)
            torch.ops.aten.convolution_backward(
                gradient, x, weight, None, stride, padding, (1, 1), False, (0, 0), 1, (True, True, False)
            )  # fmt: skip

    @torch.inference_mode()
    def forward(self) -> None:
        """One forward pass."""
        for x, weight, _, stride, padding in self.calls:
            F.conv2d(x, weight, None, stride, padding)


def evaluations(config: Config, steps: int) -> list[int]:
    """How many passes an image takes in each evaluation of so many steps of the config's sampler: two where guidance acts."""
    found: list[int] = []

    def count(x: Tensor, sigma: Tensor, features: Tensor) -> Tensor:
        found.append(len(x))
        return x

    denoise = Guided(count, torch.zeros(1, 1), config.sample.guidance, config.sample.interval)
    solve(config.sample.sampler, denoise, torch.zeros(1, 1, 1, 1), levels(config.diffusion, steps), denoise.acts)
    return found


def of_a_step(denoiser: Denoiser, config: Config, features: int, batch: int) -> tuple[float, Callable[[], object]]:
    """The convolutions of a train step: GFLOP an image, and all of them, forward and backward."""
    found = Convolutions(denoiser, config.model, features, batch)
    return 3 * found.gflop / batch, found.train


def of_a_unit(denoiser: Denoiser, config: Config, features: int, steps: int) -> tuple[float, Callable[[], object]]:
    """The convolutions of a unit that is drawn in so many steps: GFLOP an image, and all of them."""
    passes, unit = evaluations(config, steps), config.sample.unit
    by = {each: Convolutions(denoiser, config.model, features, each * unit) for each in set(passes)}

    def call() -> None:
        for each in passes:
            by[each].forward()

    return sum(by[each].gflop for each in passes) / unit, call


def limits(dtype: torch.dtype, device: str) -> dict[str, tuple[float, Callable[[], object]]]:
    """A matrix product and a copy: TFLOP and GB of a call, and the call."""
    flops, product = ceilings.product(dtype, device)
    moved, copy = ceilings.copied(device)
    return {"matmul": (flops / 1e12, product), "copy": (moved / 1e9, copy)}
