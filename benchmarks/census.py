"""What one training step of a preset asks of our operations: every shape, and how often, from the network itself.

The preset's UNet runs forward once on tensors without data, at its training batch, with the fused operations replaced by recorders that
behave as on CUDA: sources of a carried norm stay apart. Nothing here is a list of shapes that could fall behind the model.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from galaxysd import config as configs
from galaxysd.data import conditions
from galaxysd.data.schema import schema
from galaxysd.kernels.cases import Shape
from galaxysd.model import layers
from galaxysd.model.unet import UNet

PRESETS = ("smoke-32", "small-64", "base-64", "base-128")


@dataclass(frozen=True)
class Use:
    """A case at a shape, and its calls in one forward pass; each is followed by one backward."""

    case: str
    shape: Shape
    calls: int


@dataclass(frozen=True)
class Convolution:
    """A convolution at a shape: input [B, inputs, H, W], weight [outputs, inputs, kernel, kernel]."""

    batch: int
    inputs: int
    height: int
    width: int
    outputs: int
    kernel: int
    stride: int

    @property
    def flops(self) -> int:
        """Of the forward pass, two for each product; either gradient takes as many."""
        places = math.ceil(self.height / self.stride) * math.ceil(self.width / self.stride)
        return 2 * self.batch * places * self.inputs * self.outputs * self.kernel**2

    def __str__(self) -> str:
        return f"{self.batch}x{self.height}x{self.width}x{self.inputs}->{self.outputs}, {self.kernel}x{self.kernel}/{self.stride}"


class _Recorder:
    """Stands in for the fused operations, and counts."""

    def __init__(self) -> None:
        self.calls: Counter[tuple[str, Shape]] = Counter()

    def _norm(self, x: Tensor, groups: int, scale: Tensor | None, resample: str, dropout: float, added: bool, second: int) -> Tensor:
        batch, channels, height, width = x.shape
        words = ["add"] * added + ["cat"] * bool(second)
        if resample != "none":
            words = [resample]
        elif dropout:
            words = ["dropout"]
        elif not words and scale is not None:
            words = ["adaptive"]
        self.calls["-".join(["norm", *words]), Shape(batch, height, width, channels, groups, second)] += 1
        factor = {"none": 1.0, "up": 2.0, "down": 0.5}[resample]
        return x.new_empty(batch, channels + second, int(height * factor), int(width * factor))

    def norm(
        self, x: Tensor, weight: Tensor, bias: Tensor, groups: int, scale: Tensor | None = None, shift: Tensor | None = None, **named: Any
    ) -> Tensor:
        return self._norm(x, groups, scale, named.get("resample", "none"), named.get("dropout", 0.0), False, 0)

    def carry(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        groups: int,
        scale: Tensor | None = None,
        shift: Tensor | None = None,
        *,
        residual: Tensor | None = None,
        other: Tensor | None = None,
        **named: Any,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        second = 0 if other is None else other.shape[1]
        y = self._norm(x, groups, scale, named.get("resample", "none"), named.get("dropout", 0.0), residual is not None, second)
        return y, (torch.empty_like(x),) if other is None else (torch.empty_like(x), other)

    def attention(self, qkv: Tensor, heads: int, qk_gain: Tensor | None = None) -> Tensor:
        batch, packed, height, width = qkv.shape
        self.calls["attention" if qk_gain is None else "attention-norm", Shape(batch, height, width, packed // 3, heads)] += 1
        return qkv.new_empty(batch, packed // 3, height, width)


class _Convolutions(TorchDispatchMode):
    """Counts convolutions while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[Convolution] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten.convolution.default:
            (batch, inputs, height, width), (outputs, _, kernel, _) = args[0].shape, args[1].shape
            self.calls[Convolution(batch, inputs, height, width, outputs, kernel, args[3][0])] += 1
        return function(*args, **(kwargs or {}))


@contextmanager
def recording() -> Iterator[_Recorder]:
    """Within it the model's fused operations only count their calls."""
    recorder = _Recorder()
    stand_ins = {"group_norm_silu": recorder.norm, "group_norm_silu_carry": recorder.carry, "attention": recorder.attention}
    with mock.patch.multiple(layers, **stand_ins):
        yield recorder


@functools.cache
def _forward(preset: str) -> tuple[tuple[Use, ...], tuple[tuple[Convolution, int], ...]]:
    config = configs.load(preset)
    width, batch, side = conditions.width(schema(config.condition.schema)), config.train.batch, config.model.image_size
    with torch.device("meta"), torch.no_grad(), recording() as recorder, _Convolutions() as convolved:
        net = UNet(config.model, width)
        x = torch.empty(batch, config.model.image_channels, side, side, dtype=torch.bfloat16)
        net(x.contiguous(memory_format=torch.channels_last), torch.empty(batch), torch.empty(batch, width))
    uses = tuple(Use(case, shape, calls) for (case, shape), calls in sorted(recorder.calls.items(), key=str))
    return uses, tuple(convolved.calls.items())


def uses(preset: str) -> tuple[Use, ...]:
    """The fused operations of a training step of `preset`."""
    return _forward(preset)[0]


def convolutions(preset: str) -> dict[Convolution, int]:
    """Its convolutions, and how often each is called."""
    return dict(_forward(preset)[1])
