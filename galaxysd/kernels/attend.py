"""Self-attention over the pixels of a map, from packed QKV: softmax(q k^T / sqrt(D)) v for each head.

The channels of `qkv` are [3, heads, D]: all queries, then all keys, then all values. Read and written in the map's own layout, so
that no transposed copy stands before or after it; softmax and its sums are in float32. Backward recomputes the probabilities from
the logarithm of their sums.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from galaxysd.kernels.plain import is_lowered


def reference(qkv: Tensor, heads: int) -> Tensor:
    """The definition, in float32 or better: [B, 3 heads D, H, W] -> [B, heads D, H, W]."""
    batch, packed, height, width = qkv.shape
    wide = torch.promote_types(qkv.dtype, torch.float32)
    q, k, v = qkv.to(wide).reshape(batch, 3, heads, packed // 3 // heads, height * width).unbind(1)  # [B, h, D, N]
    weights = torch.softmax(q.mT @ k / math.sqrt(q.shape[2]), -1)  # [B, h, N, N]
    return (v @ weights.mT).reshape(batch, -1, height, width).to(qkv.dtype)


def _split(qkv: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, each [B heads, D, N]."""
    batch, packed, height, width = qkv.shape
    parts = qkv.reshape(batch, 3, heads, packed // 3 // heads, height * width)
    return tuple(part.flatten(0, 1) for part in parts.unbind(1))  # type: ignore[return-value]


def _format(like: Tensor) -> torch.memory_format:
    return torch.contiguous_format if like.is_contiguous() else torch.channels_last


@torch.library.custom_op("galaxysd::attention", mutates_args=())
def _forward(qkv: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    batch, packed, height, width = qkv.shape
    q, k, v = _split(qkv, heads)
    wide = torch.promote_types(qkv.dtype, torch.float32)
    scores = torch.bmm((q * q.shape[1] ** -0.5).mT, k).to(wide)  # [B h, N, N]
    total = torch.logsumexp(scores, -1, keepdim=True)
    weights = (scores - total).exp_().to(qkv.dtype)
    out = torch.bmm(v, weights.mT).view(batch, packed // 3, height, width)
    return out.contiguous(memory_format=_format(qkv)), total.view(batch, heads, height * width)


@_forward.register_fake
def _(qkv: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    batch, packed, height, width = qkv.shape
    out = torch.empty_like(qkv[:, : packed // 3]).contiguous(memory_format=_format(qkv))
    return out, qkv.new_empty(batch, heads, height * width, dtype=torch.promote_types(qkv.dtype, torch.float32))


@torch.library.custom_op("galaxysd::attention_backward", mutates_args=())
def _backward(dout: Tensor, qkv: Tensor, out: Tensor, total: Tensor, heads: int) -> Tensor:
    q, k, v = _split(qkv, heads)
    scale = q.shape[1] ** -0.5
    rows = q.shape[0]
    d, o = (t.reshape(rows, q.shape[1], -1) for t in (dout, out))  # [B h, D, N]
    weights = (torch.bmm((q * scale).mT, k).to(total.dtype) - total.view(rows, -1, 1)).exp_()
    delta = (d.to(total.dtype) * o.to(total.dtype)).sum(1).unsqueeze(-1)  # [B h, N, 1]
    ds = (weights * (torch.bmm(d.mT, v).to(total.dtype) - delta) * scale).to(qkv.dtype)  # [B h, N, N]
    dv = torch.bmm(d, weights.to(qkv.dtype))
    dq, dk = torch.bmm(k, ds.mT), torch.bmm(q, ds)
    batch = qkv.shape[0]
    packed = torch.stack([t.view(batch, heads, *t.shape[1:]) for t in (dq, dk, dv)], 1)
    return packed.view(qkv.shape).contiguous(memory_format=_format(qkv))


@_backward.register_fake
def _(dout: Tensor, qkv: Tensor, out: Tensor, total: Tensor, heads: int) -> Tensor:
    return torch.empty_like(qkv)


def _setup(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: tuple) -> None:  # type: ignore[type-arg]
    qkv, heads = inputs
    out, total = output
    ctx.mark_non_differentiable(total)
    ctx.save_for_backward(qkv, out, total)
    ctx.heads = heads  # type: ignore[attr-defined]


def _gradients(ctx, dout: Tensor, *_: object) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
    qkv, out, total = ctx.saved_tensors
    return _backward(dout, qkv, out, total, ctx.heads), None


_forward.register_autograd(_gradients, setup_context=_setup)


def attention(qkv: Tensor, heads: int) -> Tensor:
    """Attends over the H W pixels of `qkv` [B, 3 heads D, H, W]; gives [B, heads D, H, W] in the same layout."""
    if qkv.ndim != 4:
        raise ValueError(f"attention: qkv has {qkv.ndim} dimensions, [B, 3 heads D, H, W] expected")
    if heads < 1 or qkv.shape[1] % (3 * heads):
        raise ValueError(f"attention: {qkv.shape[1]} channels do not divide into queries, keys and values of {heads} heads")
    if is_lowered():
        return reference(qkv, heads)
    return _forward(qkv, heads)[0]
