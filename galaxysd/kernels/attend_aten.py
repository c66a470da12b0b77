"""Attention in native aten calls with an explicit backward: the op's body wherever there is no CUDA kernel for it."""

from __future__ import annotations

import torch
from torch import Tensor

QK_EPS = 1e-6  # under the root of a mean square


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype of statistics: float32, or float64 for float64."""
    return torch.float64 if dtype is torch.float64 else torch.float32


def laid_out(like: Tensor) -> torch.memory_format:
    """The layout an output takes from an input."""
    return torch.contiguous_format if like.is_contiguous() else torch.channels_last


def unit(x: Tensor, dim: int) -> Tensor:
    """x over its root mean square along dim, in float32 or better."""
    x = x.to(wide(x.dtype))
    return x * torch.rsqrt(x.square().mean(dim, keepdim=True) + QK_EPS)


def _unit_gradient(dy: Tensor, x: Tensor, dim: int) -> Tensor:
    x = x.to(dy.dtype)
    factor = torch.rsqrt(x.square().mean(dim, keepdim=True) + QK_EPS)
    y = x * factor
    return factor * (dy - y * (dy * y).mean(dim, keepdim=True))


def _split(qkv: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, each [B heads, D, N]."""
    batch, packed, height, width = qkv.shape
    parts = qkv.reshape(batch, 3, heads, packed // 3 // heads, height * width)
    return tuple(part.flatten(0, 1) for part in parts.unbind(1))  # type: ignore[return-value]


def _normed(q: Tensor, k: Tensor, qk_gain: Tensor | None) -> tuple[Tensor, Tensor]:
    if qk_gain is None:
        return q, k
    return (unit(q, 1) * qk_gain[:, None]).to(q.dtype), unit(k, 1).to(k.dtype)


def aten_forward(qkv: Tensor, heads: int, qk_gain: Tensor | None) -> tuple[Tensor, Tensor]:
    """The attended values and the logarithm of each query's sum, [B, heads, N]."""
    batch, packed, height, width = qkv.shape
    q, k, v = _split(qkv, heads)
    q, k = _normed(q, k, qk_gain)
    scores = torch.bmm((q * q.shape[1] ** -0.5).mT, k).to(wide(qkv.dtype))  # [B h, N, N]
    total = torch.logsumexp(scores, -1, keepdim=True)
    weights = (scores - total).exp_().to(qkv.dtype)
    out = torch.bmm(v, weights.mT).view(batch, packed // 3, height, width)
    return out.contiguous(memory_format=laid_out(qkv)), total.view(batch, heads, height * width)


def aten_backward(dout: Tensor, qkv: Tensor, out: Tensor, total: Tensor, heads: int, qk_gain: Tensor | None) -> tuple[Tensor, Tensor]:
    """The gradients of qkv and of the gain; the latter is empty without one."""
    raw_q, raw_k, v = _split(qkv, heads)
    q, k = _normed(raw_q, raw_k, qk_gain)
    scale = q.shape[1] ** -0.5
    pairs = q.shape[0]
    d, o = (t.reshape(v.shape) for t in (dout, out))  # [B h, D, N]
    weights = (torch.bmm((q * scale).mT, k).to(total.dtype) - total.view(pairs, v.shape[2], 1)).exp_()
    delta = (d.to(total.dtype) * o.to(total.dtype)).sum(1).unsqueeze(-1)  # [B h, N, 1]
    ds = (weights * (torch.bmm(d.mT, v).to(total.dtype) - delta) * scale).to(qkv.dtype)  # [B h, N, N]
    dv = torch.bmm(d, weights.to(qkv.dtype))
    dq, dk = torch.bmm(k, ds.mT), torch.bmm(q, ds)
    dgain = total.new_empty(0)
    if qk_gain is not None:
        dq, dk = dq.to(total.dtype), dk.to(total.dtype)
        dgain = (dq * unit(raw_q, 1)).sum((0, 2))
        dq = _unit_gradient(dq * qk_gain[:, None], raw_q, 1).to(qkv.dtype)
        dk = _unit_gradient(dk, raw_k, 1).to(qkv.dtype)
    batch = qkv.shape[0]
    packed = torch.stack([t.view(batch, heads, *t.shape[1:]) for t in (dq, dk, dv)], 1)
    return packed.view(qkv.shape).contiguous(memory_format=laid_out(qkv)), dgain
