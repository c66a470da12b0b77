"""One optimiser step: AdamW, clipping, the learning-rate law, the average of the weights, and the numbers that tell how it went."""

from __future__ import annotations

import math

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
        # 1 from the first loss or norm that is no number. The fused step reads it where it stands and then keeps its hands off
        # weights and moments, so that nobody has to wait for a device to know.
        self.spoilt = torch.zeros((), device=self.parameters[0].device)
        self.adam.found_inf = self.spoilt  # type: ignore[attr-defined]

    def step(self, images: int, progress: float, loss: Tensor) -> Tensor:
        """Applies the gradients; `images` were seen before this step and the run is `progress` of its way. Gives the gradient's norm.

        From a step on whose `loss` or norm is no finite number nothing changes any more: the weights stay those of the step before it.
        """
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.config.clip or math.inf, foreach=True)
        self.spoilt.copy_(torch.maximum(self.spoilt, (~torch.isfinite(loss + norm)).to(self.spoilt.dtype)))
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


class Numbers:
    """Losses and gradient norms of the steps since they were last read, kept where they were computed: to read them is to wait."""

    def __init__(self) -> None:
        self._kept: list[Tensor] = []

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, loss: Tensor, norm: Tensor) -> None:
        self._kept.append(torch.stack((loss, norm)).detach())

    def read(self) -> Tensor:
        """Losses and norms of the steps, float64 [2, steps] on the CPU; afterwards there are none."""
        table = torch.stack(self._kept, 1).to("cpu", torch.float64)
        self._kept.clear()
        return table


def learning_rate(config: TrainConfig, images: int, progress: float) -> float:
    """A linear warm-up, a plateau, and a cosine to zero over the last `decay` of the run."""
    warm = min(1.0, (images + config.batch) / config.warmup_images) if config.warmup_images else 1.0
    into = (progress - (1 - config.decay)) / config.decay if config.decay else 0.0
    return config.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * min(max(into, 0.0), 1.0)))
