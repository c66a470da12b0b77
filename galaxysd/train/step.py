"""One optimiser step: AdamW, gradient clipping, the learning-rate law and the moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from galaxysd.config import TrainConfig

EMA_RAMP = 0.1  # while a run is young, its average spans this share of what it has seen


class Optimiser:
    """AdamW and EMA of one network, with a state that is a flat dict of tensors."""

    def __init__(self, net: nn.Module, config: TrainConfig) -> None:
        self.config = config
        self.names = [name for name, _ in net.named_parameters()]
        self.parameters: list[Tensor] = [parameter for _, parameter in net.named_parameters()]
        self.ema = [parameter.detach().clone() for parameter in self.parameters]
        self.adam = torch.optim.AdamW(
            self.parameters, lr=config.learning_rate, betas=(0.9, 0.99), eps=1e-8, weight_decay=config.weight_decay, fused=True
        )

    def step(self, images: int, progress: float, check: Callable[[Tensor], None]) -> Tensor:
        """Applies the gradients; `images` were seen before this step and the run is `progress` of its way. Gives the gradient's norm.

        `check` looks at the norm before any weight is changed, and may refuse by raising.
        """
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.config.clip or math.inf, foreach=True)
        check(norm)
        for group in self.adam.param_groups:
            group["lr"] = learning_rate(self.config, images, progress)
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        seen = images + self.config.batch
        length = max(min(self.config.ema_images, EMA_RAMP * seen), self.config.batch)
        with torch.no_grad():
            torch._foreach_lerp_(self.ema, self.parameters, 1 - math.exp(-self.config.batch / length))
        return norm

    def averaged(self) -> dict[str, Tensor]:
        """The averaged weights by name: the model that is used."""
        return dict(zip(self.names, self.ema, strict=True))

    def state(self) -> dict[str, Tensor]:
        """Everything a resumed run needs beside the averaged weights."""
        flat: dict[str, Tensor] = {}
        for name, parameter in zip(self.names, self.parameters, strict=True):
            flat[f"weight.{name}"] = parameter.detach()
            moments = self.adam.state.get(parameter, {})
            for moment in ("exp_avg", "exp_avg_sq", "step"):
                if moment in moments:
                    flat[f"{moment}.{name}"] = moments[moment]
        return flat

    def restore(self, averaged: dict[str, Tensor], state: dict[str, Tensor]) -> None:
        """Takes the state of a checkpoint, in each parameter's own memory layout."""
        with torch.no_grad():
            for name, parameter, ema in zip(self.names, self.parameters, self.ema, strict=True):
                parameter.copy_(state[f"weight.{name}"])
                ema.copy_(averaged[name])
                if f"step.{name}" in state:
                    self.adam.state[parameter] = {
                        "step": state[f"step.{name}"].float(),
                        "exp_avg": torch.empty_like(parameter).copy_(state[f"exp_avg.{name}"]),
                        "exp_avg_sq": torch.empty_like(parameter).copy_(state[f"exp_avg_sq.{name}"]),
                    }


def learning_rate(config: TrainConfig, images: int, progress: float) -> float:
    """A linear warm-up, a plateau, and a cosine to zero over the last `decay` of the run."""
    warm = min(1.0, (images + config.batch) / config.warmup_images) if config.warmup_images else 1.0
    into = (progress - (1 - config.decay)) / config.decay if config.decay else 0.0
    return config.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * min(max(into, 0.0), 1.0)))
