"""Layers that keep float32 weights and compute in the dtype of what they are given."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from galaxysd.kernels import attention, group_norm_silu


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


class Attention(nn.Module):
    """Self-attention over a map, added to it; starts as nothing."""

    def __init__(self, channels: int, head_width: int, group_width: int) -> None:
        super().__init__()
        self.heads = channels // head_width
        self.norm = NormSiLU(channels, group_width)
        self.qkv = Conv(channels, 3 * channels, 1)
        self.out = Conv(channels, channels, 1, zero=True)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.out(attention(self.qkv(self.norm(x)), self.heads))


def laid_out(net: nn.Module, layout: torch.memory_format) -> nn.Module:
    """The network with its weights in a memory layout."""
    return net.to(memory_format=layout)  # type: ignore[call-overload]
