"""The same networks with every op as plain torch modules: what an engineer would write first, and what ours is measured against."""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from galaxysd.model.layers import Attention, NormSiLU, Pending


class PlainNormSiLU(nn.Module):
    """nn.GroupNorm, the affine of the condition, nn.SiLU."""

    def __init__(self, ours: NormSiLU) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(ours.groups, len(ours.weight), eps=1e-5)
        self.norm.weight, self.norm.bias = ours.weight, ours.bias
        self.activation = nn.SiLU()

    def forward(self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        y = F.group_norm(x, self.norm.num_groups, self.norm.weight.to(x.dtype), self.norm.bias.to(x.dtype), self.norm.eps)
        if scale is not None and shift is not None:
            y = torch.addcmul(shift[:, :, None, None], y, 1 + scale[:, :, None, None])
        return self.activation(y)

    def carry(self, h: Pending, other: Tensor | None = None) -> tuple[Tensor, tuple[Tensor, ...]]:
        x = h.whole() if other is None else torch.cat((h.whole(), other), 1)
        return self(x), (x,)

    def into(self, conv: nn.Module, *given: Tensor) -> Tensor:
        out: Tensor = conv(self(*given))
        return out

    def carry_into(self, conv: nn.Module, h: Pending, other: Tensor | None = None) -> tuple[Tensor, tuple[Tensor, ...]]:
        y, sources = self.carry(h, other)
        return conv(y), sources


class PlainAttention(nn.Module):
    """The same projections around torch's own scaled_dot_product_attention."""

    def __init__(self, ours: Attention) -> None:
        super().__init__()
        self.heads, self.norm, self.qkv, self.out, self.qk_gain = ours.heads, ours.norm, ours.qkv, ours.out, ours.qk_gain

    def forward(self, h: Pending) -> Pending:
        y, (x,) = self.norm.carry(h)
        batch, channels, height, width = x.shape
        packed = self.qkv(y).reshape(batch, 3, self.heads, channels // self.heads, height * width)
        q, k, v = packed.transpose(-1, -2).unbind(1)
        if self.qk_gain is not None:
            q, k = (F.rms_norm(t, t.shape[-1:], eps=1e-6) for t in (q, k))
            q = q * self.qk_gain.to(q.dtype)
        y = F.scaled_dot_product_attention(q, k, v, scale=1 / math.sqrt(q.shape[-1]))
        return Pending(x, self.out(y.transpose(-1, -2).reshape(x.shape)))


KINDS = {NormSiLU: PlainNormSiLU, Attention: PlainAttention}


def plain(net: nn.Module, kinds: tuple[type[nn.Module], ...] = (NormSiLU, Attention)) -> nn.Module:
    """A copy of `net` with these of our operations in plain modules, same weights."""
    copied = copy.deepcopy(net)
    _replace(copied, kinds)
    return copied


def _replace(module: nn.Module, kinds: tuple[type[nn.Module], ...]) -> None:
    for name, child in module.named_children():
        _replace(child, kinds)
        if isinstance(child, kinds):
            setattr(module, name, KINDS[type(child)](child))
