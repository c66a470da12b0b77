"""Self-attention over the pixels of a map, from packed QKV: softmax(q k^T / sqrt(D)) v for each head.

The channels of `qkv` are [3, heads, D]: all queries, then all keys, then all values. A channels_last map is [B, N, 3, heads, D] in
memory: the kernels read that strided, write [B, N, heads, D], and backward writes one packed gradient, so that no split, transposed
or stacked copy stands before or after (through torch's attention these are 3 more passes forward and 6 backward). Fused as well, where
`qk_gain` is given: q and k over their root mean square. Softmax and sums are in float32; the logarithm of each query's sum is kept,
and backward recomputes the probabilities from it. Every gradient has one writer: equal inputs give equal bits.

`attend_short` has the kernels of N <= 256, `attend_tiled` those up to 1024; which of them a shape takes is the launch table's to say.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from galaxysd.kernels import launching
from galaxysd.kernels.attend_aten import aten_backward, aten_forward, laid_out, unit, wide
from galaxysd.kernels.attend_short import short_backward, short_forward
from galaxysd.kernels.attend_tiled import tiled_backward, tiled_forward
from galaxysd.kernels.plain import is_lowered

WIDTHS = (16, 32, 64, 128)  # head widths of the kernels
LONGEST = 1024
# The shape classes of the launch tables, each with its largest N and D.
CLASSES = {f"n<={n},d<={d}": (n, d) for d in (32, 64, 128) for n in (64, 256, LONGEST)}


def reference(qkv: Tensor, heads: int, qk_gain: Tensor | None = None) -> Tensor:
    """The definition, in float32 or better: [B, 3 heads D, H, W] -> [B, heads D, H, W]."""
    batch, packed, height, width = qkv.shape
    parts = qkv.to(wide(qkv.dtype)).reshape(batch, 3, heads, packed // 3 // heads, height * width)
    q, k, v = parts.unbind(1)  # [B, h, D, N]
    if qk_gain is not None:
        q, k = unit(q, 2) * qk_gain[:, None], unit(k, 2)
    weights = torch.softmax(q.mT @ k / math.sqrt(q.shape[2]), -1)  # [B, h, N, N]
    return (v @ weights.mT).reshape(batch, packed // 3, height, width).to(qkv.dtype)


def _class(qkv: Tensor, heads: int) -> str:
    """The shape class of a map, once it is one the kernels take."""
    _, packed, height, width = qkv.shape
    d = packed // 3 // heads
    if qkv.dtype not in launching.DTYPES or (qkv.is_cuda and qkv.dtype is torch.float64):
        raise ValueError(f"attention: the kernels take bfloat16, float16 or float32, not {qkv.dtype}; cast qkv")
    if d not in WIDTHS:
        raise ValueError(f"attention: {packed // 3} channels over {heads} heads are {d} a head; choose heads to have one of {WIDTHS}")
    if not qkv.is_contiguous(memory_format=torch.channels_last):
        raise ValueError(
            f"attention: qkv of strides {qkv.stride()} is not channels_last; use qkv.contiguous(memory_format=torch.channels_last)"
        )
    if height * width > LONGEST:
        raise ValueError(f"attention: {height * width} pixels, {LONGEST} at most in the kernels; attention() takes torch's own above")
    return next(name for name, (longest, widest) in CLASSES.items() if height * width <= longest and d <= widest)


def _short_row(op: str, shape: str, qkv: Tensor) -> launching.Row | None:
    """The row of a one-program kernel, where the launch table has one for this shape, dtype and card."""
    return launching.rows().get((op, shape, launching.DTYPES[qkv.dtype], launching.capability_of(qkv.device)))


def launch_forward(qkv: Tensor, heads: int, qk_gain: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The attended values and the logarithm of each query's sum, [B, heads, N], by the kernels: channels_last, N <= 1024."""
    shape = _class(qkv, heads)
    batch, packed, height, width = qkv.shape
    layout: Any = {"device": qkv.device, "memory_format": laid_out(qkv)}
    out = torch.empty(batch, packed // 3, height, width, dtype=qkv.dtype, **layout)
    total = torch.empty(batch, heads, height * width, dtype=wide(qkv.dtype), device=qkv.device)
    gain = None if qk_gain is None else qk_gain.contiguous()
    if (row := _short_row("attention_short_forward", shape, qkv)) is not None:
        short_forward(row, qkv, heads, gain, out, total)
    else:
        tiled_forward(launching.row("attention_tiled_forward", shape, qkv), qkv, heads, gain, out, total)
    return out, total


def launch_backward(
    dout: Tensor, qkv: Tensor, out: Tensor, total: Tensor, heads: int, qk_gain: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The gradients of qkv and of the gain (empty without one), by the kernels; dout may come with any strides."""
    shape = _class(qkv, heads)
    dout = dout.contiguous(memory_format=torch.channels_last)  # cat's backward hands a part of a larger map
    dqkv = torch.empty_like(qkv, memory_format=laid_out(qkv))
    gain = None if qk_gain is None else qk_gain.contiguous()
    if (row := _short_row("attention_short_backward", shape, qkv)) is not None:
        parts = short_backward(row, dout, qkv, heads, gain, out, total, dqkv)
    else:
        rows = launching.row("attention_tiled_queries", shape, qkv), launching.row("attention_tiled_keys", shape, qkv)
        parts = tiled_backward(rows, dout, qkv, heads, gain, out, total, dqkv)
    return dqkv, total.new_empty(0) if parts is None else parts.sum(0)


@torch.library.triton_op("galaxysd::attention", mutates_args={})
def _forward(qkv: Tensor, heads: int, qk_gain: Tensor | None) -> tuple[Tensor, Tensor]:
    if qkv.is_cuda:
        return launch_forward(qkv, heads, qk_gain)
    return aten_forward(qkv, heads, qk_gain)


@_forward.register_fake
def _(qkv: Tensor, heads: int, qk_gain: Tensor | None) -> tuple[Tensor, Tensor]:
    batch, packed, height, width = qkv.shape
    out = torch.empty(batch, packed // 3, height, width, dtype=qkv.dtype, device=qkv.device, memory_format=laid_out(qkv))
    return out, qkv.new_empty(batch, heads, height * width, dtype=wide(qkv.dtype))


@torch.library.triton_op("galaxysd::attention_backward", mutates_args={})
def _backward(dout: Tensor, qkv: Tensor, out: Tensor, total: Tensor, heads: int, qk_gain: Tensor | None) -> tuple[Tensor, Tensor]:
    if qkv.is_cuda:
        return launch_backward(dout, qkv, out, total, heads, qk_gain)
    return aten_backward(dout, qkv, out, total, heads, qk_gain)


@_backward.register_fake
def _(dout: Tensor, qkv: Tensor, out: Tensor, total: Tensor, heads: int, qk_gain: Tensor | None) -> tuple[Tensor, Tensor]:
    return torch.empty_like(qkv, memory_format=laid_out(qkv)), total.new_empty(0 if qk_gain is None else len(qk_gain))


def _setup(ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    qkv, heads, qk_gain = inputs
    out, total = output
    ctx.mark_non_differentiable(total)
    ctx.save_for_backward(qkv, out, total, qk_gain)
    ctx.heads = heads  # type: ignore[attr-defined]


def _gradients(ctx: Any, dout: Tensor, *_: object) -> tuple[Tensor, None, Tensor | None]:
    qkv, out, total, qk_gain = ctx.saved_tensors
    dqkv, dgain = _backward(dout, qkv, out, total, ctx.heads, qk_gain)
    return dqkv, None, None if qk_gain is None else dgain


_forward.register_autograd(_gradients, setup_context=_setup)


def by_torch(qkv: Tensor, heads: int, qk_gain: Tensor | None = None) -> Tensor:
    """The same by torch's own attention: the way of maps with N > 1024 on CUDA, where its kernels are as good as any."""
    batch, packed, height, width = qkv.shape
    parts = qkv.permute(0, 2, 3, 1).reshape(batch, height * width, 3, heads, packed // 3 // heads)
    q, k, v = parts.permute(2, 0, 3, 1, 4)  # [B, h, N, D]
    if qk_gain is not None:
        q, k = (unit(q, 3) * qk_gain).to(q.dtype), unit(k, 3).to(k.dtype)
    out = F.scaled_dot_product_attention(q, k, v)
    out = out.transpose(1, 2).reshape(batch, height, width, packed // 3).permute(0, 3, 1, 2)
    return out.contiguous(memory_format=laid_out(qkv))


def attention(qkv: Tensor, heads: int, qk_gain: Tensor | None = None) -> Tensor:
    """Attends over the H W pixels of `qkv` [B, 3 heads D, H, W]; gives [B, heads D, H, W] in the same layout.

    With `qk_gain` [D], float32, each query and key is first divided by its root mean square over D, sqrt(mean(x^2) + 1e-6), and the
    query multiplied by the gain: only the product of a query's and a key's gain would matter, so there is one. On CUDA up to 1024
    pixels go through kernels, which want channels_last and D of 16, 32, 64 or 128; above that through torch's own attention.
    """
    if qkv.ndim != 4:
        raise ValueError(f"attention: qkv has {qkv.ndim} dimensions, [B, 3 heads D, H, W] expected")
    if heads < 1 or qkv.shape[1] % (3 * heads):
        raise ValueError(f"attention: {qkv.shape[1]} channels do not divide into queries, keys and values of {heads} heads")
    if 0 in qkv.shape[1:]:
        raise ValueError(f"attention: qkv {list(qkv.shape)} has no channels or no pixels; only the batch may be empty")
    d = qkv.shape[1] // 3 // heads
    if qk_gain is not None and (qk_gain.shape != (d,) or qk_gain.dtype is not wide(qkv.dtype)):
        raise ValueError(f"attention: qk_gain is {list(qk_gain.shape)} of {qk_gain.dtype}; [{d}] of {wide(qkv.dtype)} expected")
    if is_lowered():
        return reference(qkv, heads, qk_gain)
    if qkv.is_cuda and qkv.shape[2] * qkv.shape[3] > LONGEST:
        return by_torch(qkv, heads, qk_gain)
    return _forward(qkv, heads, qk_gain)[0]
