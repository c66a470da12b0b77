"""Attention of a longer sequence by tiles: a program for each (sample, head, block), for N <= 1024, and for any shape without a short row.

Forward keeps a block of queries and walks over the keys with a running maximum and sum. Backward is two kernels and seven matrix
products instead of five, so that each gradient has one writer: the first gives dQ of a block of queries, and delta = rowsum(dO * O)
for the second, which gives dK and dV of a block of keys. Scores and their gradients never leave the chip: 4 streams of B N heads D
values forward, 13 backward, and what a tile reads again from the cache.
"""

from __future__ import annotations

import torch
from torch import Tensor

from galaxysd.kernels.attend_short import load_tokens, store_tokens, unit, unit_gradient
from galaxysd.kernels.launching import Row, accumulator, launch, tl, triton, wrap_triton


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
    BLOCK_M: tl.constexpr,  # queries of a program
    BLOCK_N: tl.constexpr,  # keys at a time
):
    blocks = tl.cdiv(n, BLOCK_M)
    block, pair = tl.program_id(0) % blocks, tl.program_id(0) // blocks
    head, batch = pair % heads, (pair // heads).to(tl.int64)
    width, stride = heads * D, 3 * heads * D
    scale: tl.constexpr = 1.4426950408889634 / D**0.5  # of exp2
    q_ptr = qkv_ptr + batch * n * stride + head * D
    rows = block * BLOCK_M + tl.arange(0, BLOCK_M)
    q = load_tokens(q_ptr, rows, n, stride, D)
    if QK_NORM:
        gain = tl.load(gain_ptr + tl.arange(0, D)).to(ACC)
        q = (unit(q, D, ACC)[0] * gain[None, :]).to(q.dtype)
    top = tl.full([BLOCK_M], float("-inf"), ACC)
    norm = tl.zeros([BLOCK_M], ACC)
    out = tl.zeros([BLOCK_M, D], ACC)
    for start in range(0, n, BLOCK_N):
        keys = start + tl.arange(0, BLOCK_N)
        k = load_tokens(q_ptr + width, keys, n, stride, D)
        v = load_tokens(q_ptr + 2 * width, keys, n, stride, D)
        if QK_NORM:
            k = unit(k, D, ACC)[0].to(q.dtype)
        scores = tl.dot(q, k.T, input_precision="ieee") * scale
        scores = tl.where(keys[None, :] < n, scores, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, 1))
        fade = tl.exp2(top - higher)
        weights = tl.exp2(scores - higher[:, None])
        norm = norm * fade + tl.sum(weights, 1)
        out = out * fade[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        top = higher
    store_tokens(out_ptr + batch * n * width + head * D, out / norm[:, None], rows, n, width, D)
    total = (top + tl.log2(norm)) * 0.6931471805599453
    tl.store(total_ptr + (batch * heads + head) * n + rows, total, mask=rows < n)


@triton.jit
def _queries(
    dout_ptr,  # [B, N, heads, D]
    qkv_ptr,  # [B, N, 3, heads, D]
    gain_ptr,  # [D]
    out_ptr,  # [B, N, heads, D]
    total_ptr,  # [B, heads, N]
    dqkv_ptr,  # [B, N, 3, heads, D]
    delta_ptr,  # [B, heads, N]: written
    dgain_ptr,  # [B heads blocks, D]: one slot for each program
    heads,
    n,
    D: tl.constexpr,
    QK_NORM: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_M: tl.constexpr,  # queries of a program
    BLOCK_N: tl.constexpr,  # keys at a time
):
    blocks = tl.cdiv(n, BLOCK_M)
    block, pair = tl.program_id(0) % blocks, tl.program_id(0) // blocks
    head, batch = pair % heads, (pair // heads).to(tl.int64)
    width, stride = heads * D, 3 * heads * D
    scale: tl.constexpr = 1.4426950408889634 / D**0.5
    q_ptr = qkv_ptr + batch * n * stride + head * D
    rows = block * BLOCK_M + tl.arange(0, BLOCK_M)
    statistics = (batch * heads + head) * n + rows
    q = load_tokens(q_ptr, rows, n, stride, D)
    dout = load_tokens(dout_ptr + batch * n * width + head * D, rows, n, width, D)
    out = load_tokens(out_ptr + batch * n * width + head * D, rows, n, width, D)
    delta = tl.sum(dout.to(ACC) * out.to(ACC), 1)
    tl.store(delta_ptr + statistics, delta, mask=rows < n)
    total = tl.load(total_ptr + statistics, mask=rows < n, other=float("inf")) * 1.4426950408889634
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
        dscores = weights * (tl.dot(dout, v.T, input_precision="ieee") - delta[:, None])
        dq += tl.dot(dscores.to(dout.dtype), k, input_precision="ieee")
    dq *= 1 / D**0.5
    if QK_NORM:
        q = load_tokens(q_ptr, rows, n, stride, D)
        tl.store(dgain_ptr + tl.program_id(0) * D + tl.arange(0, D), tl.sum(dq * unit(q, D, ACC)[0], 0))
        dq = unit_gradient(dq * gain[None, :], q, D, ACC)
    store_tokens(dqkv_ptr + batch * n * stride + head * D, dq, rows, n, stride, D)


@triton.jit
def _keys(
    dout_ptr,  # [B, N, heads, D]
    qkv_ptr,  # [B, N, 3, heads, D]
    gain_ptr,  # [D]
    total_ptr,  # [B, heads, N]
    delta_ptr,  # [B, heads, N]
    dqkv_ptr,  # [B, N, 3, heads, D]
    heads,
    n,
    D: tl.constexpr,
    QK_NORM: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_M: tl.constexpr,  # queries at a time
    BLOCK_N: tl.constexpr,  # keys of a program
):
    blocks = tl.cdiv(n, BLOCK_N)
    block, pair = tl.program_id(0) % blocks, tl.program_id(0) // blocks
    head, batch = pair % heads, (pair // heads).to(tl.int64)
    width, stride = heads * D, 3 * heads * D
    scale: tl.constexpr = 1.4426950408889634 / D**0.5
    q_ptr, dq_ptr = qkv_ptr + batch * n * stride + head * D, dqkv_ptr + batch * n * stride + head * D
    keys = block * BLOCK_N + tl.arange(0, BLOCK_N)
    k = load_tokens(q_ptr + width, keys, n, stride, D)
    v = load_tokens(q_ptr + 2 * width, keys, n, stride, D)
    if QK_NORM:
        gain = tl.load(gain_ptr + tl.arange(0, D)).to(ACC)
        k = unit(k, D, ACC)[0].to(v.dtype)
    dk = tl.zeros([BLOCK_N, D], ACC)
    dv = tl.zeros([BLOCK_N, D], ACC)
    for start in range(
        0, n, BLOCK_M
    ):  # scores are held transposed, [keys, queries]; no row of them depends on another, so keys past n need no mask
        rows = start + tl.arange(0, BLOCK_M)
        statistics = (batch * heads + head) * n + rows
        q = load_tokens(q_ptr, rows, n, stride, D)
        dout = load_tokens(dout_ptr + batch * n * width + head * D, rows, n, width, D)
        total = tl.load(total_ptr + statistics, mask=rows < n, other=float("inf")) * 1.4426950408889634
        delta = tl.load(delta_ptr + statistics, mask=rows < n, other=0.0)
        if QK_NORM:
            q = (unit(q, D, ACC)[0] * gain[None, :]).to(v.dtype)
        weights = tl.exp2(tl.dot(k, q.T, input_precision="ieee") * scale - total[None, :])
        dv += tl.dot(weights.to(v.dtype), dout, input_precision="ieee")
        dscores = weights * (tl.dot(v, dout.T, input_precision="ieee") - delta[None, :])
        dk += tl.dot(dscores.to(v.dtype), q, input_precision="ieee")
    dk *= 1 / D**0.5
    if QK_NORM:
        dk = unit_gradient(dk, load_tokens(q_ptr + width, keys, n, stride, D), D, ACC)
    store_tokens(dq_ptr + width, dk, keys, n, stride, D)
    store_tokens(dq_ptr + 2 * width, dv, keys, n, stride, D)


def _constants(qkv: Tensor, heads: int, qk_gain: Tensor | None) -> dict[str, object]:
    return {"D": qkv.shape[1] // 3 // heads, "QK_NORM": qk_gain is not None, "ACC": accumulator(qkv.dtype)}


def tiled_forward(row: Row, qkv: Tensor, heads: int, qk_gain: Tensor | None, out: Tensor, total: Tensor) -> None:
    """Fills out and total: one program for each sample, head and block of queries."""
    batch, _, height, width = qkv.shape
    n = height * width
    programs = batch * heads * -(-n // row.blocks["BLOCK_M"])
    launch(wrap_triton(_forward), programs, row, qkv, qk_gain, out, total, heads, n, **_constants(qkv, heads, qk_gain))


def tiled_backward(
    rows: tuple[Row, Row], dout: Tensor, qkv: Tensor, heads: int, qk_gain: Tensor | None, out: Tensor, total: Tensor, dqkv: Tensor
) -> Tensor | None:
    """Fills dqkv and gives the parts of the gain's gradient, [B heads blocks, D]; a row for the queries' kernel, one for the keys'."""
    batch, _, height, width = qkv.shape
    n, (queries, keys), constants = height * width, rows, _constants(qkv, heads, qk_gain)
    programs = batch * heads * -(-n // queries.blocks["BLOCK_M"])
    dgain = None if qk_gain is None else torch.empty(programs, len(qk_gain), dtype=total.dtype, device=qkv.device)
    delta = torch.empty_like(total)
    launch(wrap_triton(_queries), programs, queries, dout, qkv, qk_gain, out, total, dqkv, delta, dgain, heads, n, **constants)
    programs = batch * heads * -(-n // keys.blocks["BLOCK_N"])
    launch(wrap_triton(_keys), programs, keys, dout, qkv, qk_gain, total, delta, dqkv, heads, n, **constants)
    return dgain
