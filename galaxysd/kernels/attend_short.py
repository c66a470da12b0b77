"""Attention of a short sequence in one program for each (sample, head): N <= 256, forward and the whole of backward.

Queries, keys, values and the gradient of the output are read once and everything is written once: 4 streams of B N heads D values
forward and 8 backward. Backward keeps all queries and walks over blocks of keys, so that dQ stays in registers while dK and dV of a
block are finished at once: five matrix products, no second pass, no two writers of one value. delta = rowsum(dO * O) is made inside.
"""

from __future__ import annotations

import torch
from torch import Tensor

from galaxysd.kernels.launching import Row, accumulator, launch, tl, triton, wrap_triton


@triton.jit
def load_tokens(ptr, tokens, n, stride, D: tl.constexpr):
    """One vector of D values for each token, [tokens, D]; zeros past the n-th."""
    dims = tl.arange(0, D)
    return tl.load(ptr + tokens[:, None] * stride + dims[None, :], mask=tokens[:, None] < n, other=0.0)


@triton.jit
def store_tokens(ptr, x, tokens, n, stride, D: tl.constexpr):
    """Writes what `load_tokens` reads."""
    dims = tl.arange(0, D)
    tl.store(ptr + tokens[:, None] * stride + dims[None, :], x.to(ptr.dtype.element_ty), mask=tokens[:, None] < n)


@triton.jit
def unit(x, D: tl.constexpr, ACC: tl.constexpr):
    """x [tokens, D] over its root mean square, and the factor [tokens] that made it so."""
    x = x.to(ACC)
    factor = 1 / tl.sqrt(tl.sum(x * x, 1) / D + 1e-6)  # QK_EPS
    return x * factor[:, None], factor


@triton.jit
def unit_gradient(dy, x, D: tl.constexpr, ACC: tl.constexpr):
    """The gradient of x, of that of `unit`."""
    y, factor = unit(x, D, ACC)
    return factor[:, None] * (dy - y * (tl.sum(dy * y, 1) / D)[:, None])


@triton.jit
def _forward(
    qkv_ptr,  # [B, N, 3, heads, D]
    gain_ptr,  # [D]
    out_ptr,  # [B, N, heads, D]
    total_ptr,  # [B, heads, N]
    heads,
    n,
    D: tl.constexpr,
    QK_NORM: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_M: tl.constexpr,  # queries at a time
    BLOCK_N: tl.constexpr,  # all keys
):
    head, batch = tl.program_id(0) % heads, (tl.program_id(0) // heads).to(tl.int64)
    width, stride = heads * D, 3 * heads * D
    scale: tl.constexpr = 1.4426950408889634 / D**0.5  # of exp2
    q_ptr = qkv_ptr + batch * n * stride + head * D
    keys = tl.arange(0, BLOCK_N)
    k = load_tokens(q_ptr + width, keys, n, stride, D)
    v = load_tokens(q_ptr + 2 * width, keys, n, stride, D)
    if QK_NORM:
        gain = tl.load(gain_ptr + tl.arange(0, D)).to(ACC)
        k = unit(k, D, ACC)[0].to(v.dtype)
    for start in range(0, n, BLOCK_M):
        rows = start + tl.arange(0, BLOCK_M)
        q = load_tokens(q_ptr, rows, n, stride, D)
        if QK_NORM:
            q = (unit(q, D, ACC)[0] * gain[None, :]).to(v.dtype)
        scores = tl.dot(q, k.T, input_precision="ieee") * scale
        scores = tl.where(keys[None, :] < n, scores, float("-inf"))
        top = tl.max(scores, 1)
        weights = tl.exp2(scores - top[:, None])
        norm = tl.sum(weights, 1)
        out = tl.dot(weights.to(v.dtype), v, input_precision="ieee") / norm[:, None]
        store_tokens(out_ptr + batch * n * width + head * D, out, rows, n, width, D)
        total = (top + tl.log2(norm)) * 0.6931471805599453
        tl.store(total_ptr + (batch * heads + head) * n + rows, total, mask=rows < n)


@triton.jit
def _backward(
    dout_ptr,  # [B, N, heads, D]
    qkv_ptr,  # [B, N, 3, heads, D]
    gain_ptr,  # [D]
    out_ptr,  # [B, N, heads, D]
    total_ptr,  # [B, heads, N]
    dqkv_ptr,  # [B, N, 3, heads, D]
    dgain_ptr,  # [B heads, D]: one slot for each program
    heads,
    n,
    D: tl.constexpr,
    QK_NORM: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_M: tl.constexpr,  # all queries
    BLOCK_N: tl.constexpr,  # keys at a time
):
    head, batch = tl.program_id(0) % heads, (tl.program_id(0) // heads).to(tl.int64)
    width, stride = heads * D, 3 * heads * D
    scale: tl.constexpr = 1.4426950408889634 / D**0.5
    q_ptr, dq_ptr = qkv_ptr + batch * n * stride + head * D, dqkv_ptr + batch * n * stride + head * D
    rows = tl.arange(0, BLOCK_M)
    q = load_tokens(q_ptr, rows, n, stride, D)
    dout = load_tokens(dout_ptr + batch * n * width + head * D, rows, n, width, D)
    out = load_tokens(out_ptr + batch * n * width + head * D, rows, n, width, D)
    delta = tl.sum(dout.to(ACC) * out.to(ACC), 1)
    total = tl.load(total_ptr + (batch * heads + head) * n + rows, mask=rows < n, other=float("inf")) * 1.4426950408889634
    if QK_NORM:
        gain = tl.load(gain_ptr + tl.arange(0, D)).to(ACC)
        q = (unit(q, D, ACC)[0] * gain[None, :]).to(dout.dtype)
    dq = tl.zeros([BLOCK_M, D], ACC)
    for start in range(0, n, BLOCK_N):
        keys = start + tl.arange(0, BLOCK_N)
        k = load_tokens(q_ptr + width, keys, n, stride, D)
        v = load_tokens(q_ptr + 2 * width, keys, n, stride, D)
        if QK_NORM:
            k = unit(k, D, ACC)[0].to(dout.dtype)
        scores = tl.where(keys[None, :] < n, tl.dot(q, k.T, input_precision="ieee") * scale, float("-inf"))
        weights = tl.exp2(scores - total[:, None])
        dv = tl.dot(weights.to(dout.dtype).T, dout, input_precision="ieee")
        store_tokens(dq_ptr + 2 * width, dv, keys, n, stride, D)
        dscores = (weights * (tl.dot(dout, v.T, input_precision="ieee") - delta[:, None])).to(dout.dtype)
        dk = tl.dot(dscores.T, q, input_precision="ieee") * (1 / D**0.5)
        if QK_NORM:
            dk = unit_gradient(dk, load_tokens(q_ptr + width, keys, n, stride, D), D, ACC)
        store_tokens(dq_ptr + width, dk, keys, n, stride, D)
        dq += tl.dot(dscores, k, input_precision="ieee")
    dq *= 1 / D**0.5
    if QK_NORM:
        q = load_tokens(q_ptr, rows, n, stride, D)
        tl.store(dgain_ptr + tl.program_id(0) * D + tl.arange(0, D), tl.sum(dq * unit(q, D, ACC)[0], 0))
        dq = unit_gradient(dq * gain[None, :], q, D, ACC)
    store_tokens(dq_ptr, dq, rows, n, stride, D)


def short_forward(row: Row, qkv: Tensor, heads: int, qk_gain: Tensor | None, out: Tensor, total: Tensor) -> None:
    """Fills out and total: one program for each sample and head."""
    batch, packed, height, width = qkv.shape
    constants = {"D": packed // 3 // heads, "QK_NORM": qk_gain is not None, "ACC": accumulator(qkv.dtype)}
    launch(wrap_triton(_forward), batch * heads, row, qkv, qk_gain, out, total, heads, height * width, **constants)


def short_backward(
    row: Row, dout: Tensor, qkv: Tensor, heads: int, qk_gain: Tensor | None, out: Tensor, total: Tensor, dqkv: Tensor
) -> Tensor | None:
    """Fills dqkv and gives the parts of the gain's gradient, [B heads, D]."""
    batch, packed, height, width = qkv.shape
    constants = {"D": packed // 3 // heads, "QK_NORM": qk_gain is not None, "ACC": accumulator(qkv.dtype)}
    dgain = None if qk_gain is None else torch.empty(batch * heads, len(qk_gain), dtype=total.dtype, device=qkv.device)
    tensors = dout, qkv, qk_gain, out, total, dqkv, dgain
    launch(wrap_triton(_backward), batch * heads, row, *tensors, heads, height * width, **constants)
    return dgain
