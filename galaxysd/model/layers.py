"""Layers that keep float32 weights and compute in the dtype of what they are given."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
        y, (whole,) = self.norm.carry(h)
        return Pending(whole, self.out(self.attend(self.qkv(y))))

    def attend(self, qkv: Tensor) -> Tensor:
        return attention(qkv, self.heads, self.qk_gain)


def laid_out(net: nn.Module, layout: torch.memory_format) -> nn.Module:
    """The network with its weights in a memory layout."""
    return net.to(memory_format=layout)  # type: ignore[call-overload]
