"""Layers that keep float32 weights and compute in the dtype of what they are given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from galaxysd.kernels import attention, group_norm_silu, group_norm_silu_carry


class Pending(NamedTuple):
    """A map as two that nobody has added yet: the norm that reads it next adds them on its way."""

    x: Tensor
    residual: Tensor | None = None

    def whole(self) -> Tensor:
        """The sum, for a reader that is no norm."""
        return self.x if self.residual is None else self.x + self.residual


class Conv(nn.Conv2d):
    """A convolution with the padding that keeps the map (kernel 3 or 1); `zero` starts it at nothing."""

    bias: nn.Parameter

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, zero: bool = False) -> None:
        super().__init__(inputs, outputs, kernel, stride=stride, padding=kernel // 2)
        if zero:
            nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight.to(x.dtype), self.bias.to(x.dtype), self.stride, self.padding)


class Skip(Conv):
    """The 1x1 convolution of a skip branch, of one map or of two side by side that are never concatenated."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 1)

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        if other is None:
            return super().forward(x)
        batch, channels, height, width = x.shape
        first, second = self.weight.to(x.dtype).flatten(1).split([channels, other.shape[1]], 1)
        left, right = (t.permute(0, 2, 3, 1).flatten(0, 2) for t in (x, other))  # [B H W, C]
        out = F.linear(left, first, self.bias.to(x.dtype)).addmm_(right, second.t())
        return out.view(batch, height, width, -1).permute(0, 3, 1, 2)


class Linear(nn.Linear):
    """A linear layer; `zero` starts it at nothing."""

    def __init__(self, inputs: int, outputs: int, zero: bool = False) -> None:
        super().__init__(inputs, outputs)
        if zero:
            nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype), self.bias.to(x.dtype))


class NormSiLU(nn.Module):
    """GroupNorm, the affine a condition asks for, SiLU: one fused operation."""

    recompute = False  # what `into` gives a convolution is computed again in backward instead of being kept for it

    def __init__(self, channels: int, group_width: int) -> None:
        super().__init__()
        self.groups = channels // group_width
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        return group_norm_silu(x, self.weight, self.bias, self.groups, scale, shift)

    def carry(self, h: Pending, other: Tensor | None = None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The same of a pending sum, beside `other` if given; and the maps a skip branch should read."""
        return group_norm_silu_carry(h.x, self.weight, self.bias, self.groups, residual=h.residual, other=other)

    def into(self, conv: Conv, *given: Tensor) -> Tensor:
        """The convolution of `forward`."""
        if not (self.recompute and torch.is_grad_enabled()):
            return conv(self(*given))
        return again(lambda *given: conv(self(*given)), *given)

    def carry_into(self, conv: Conv, h: Pending, other: Tensor | None = None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The convolution of `carry`, and the maps a skip branch should read."""
        if not (self.recompute and torch.is_grad_enabled()):
            y, sources = self.carry(h, other)
            return conv(y), sources
        whole = h.whole()  # one map to keep, where a pending sum would be two

        def region(x: Tensor, other: Tensor | None) -> tuple[Tensor, ...]:
            y, sources = self.carry(Pending(x), other)
            return conv(y), *(sources if other is not None and len(sources) == 1 else ())  # a concatenation, where one was made

        out, *joined = again(region, whole, other)
        return out, tuple(joined) or ((whole,) if other is None else (whole, other))


def again(region: Callable[..., Any], *given: Tensor | None) -> Any:
    """What `region` gives; of it backward keeps what went in, and computes it anew as far as the last map it needs."""
    return checkpoint(region, *given, use_reentrant=False, preserve_rng_state=False)


def recomputing(net: nn.Module) -> nn.Module:
    """The network with all its norms computed again in backward."""
    for module in net.modules():
        if isinstance(module, NormSiLU):
            module.recompute = True
    return net


class Attention(nn.Module):
    """Self-attention over a map, to be added to it; starts as nothing."""

    def __init__(self, channels: int, head_width: int, group_width: int, qk_norm: bool = False) -> None:
        super().__init__()
        self.heads = channels // head_width
        self.qk_gain = nn.Parameter(torch.ones(head_width)) if qk_norm else None
        self.norm = NormSiLU(channels, group_width)
        self.qkv = Conv(channels, 3 * channels, 1)
        self.out = Conv(channels, channels, 1, zero=True)

    def forward(self, h: Pending) -> Pending:
        qkv, (whole,) = self.norm.carry_into(self.qkv, h)
        return Pending(whole, self.out(self.attend(qkv)))

    def attend(self, qkv: Tensor) -> Tensor:
        return attention(qkv, self.heads, self.qk_gain)


def laid_out(net: nn.Module, layout: torch.memory_format) -> nn.Module:
    """The network with its weights in a memory layout."""
    return net.to(memory_format=layout)  # type: ignore[call-overload]
