"""GroupNorm-SiLU forward on NHWC maps: one pass where a slab of rows and whole groups stays in registers, two passes above.

Bytes, for a map of E elements of s bytes: 2 E s in one pass (3 E s plain two-pass, whose second read comes out of L2 because the batch
is taken in slices that fit it); 4 E s with a residual, whose sum is written too; 2 E s from two sources, whose concatenation is never
written. Eager modules move 5 E s and more. A program holds many rows of a block of channels, never one group alone: rows stay wide.
"""

from __future__ import annotations

import torch
from torch import Tensor

from galaxysd.kernels.dropout import keep_tile, threshold
from galaxysd.kernels.launching import accumulator, launch, row, statistics_dtype, tl, triton, wrap_triton
from galaxysd.kernels.norm_tiles import (
    RESAMPLE,
    SLABS,
    affine,
    by_channel,
    by_group,
    dense_nhwc,
    extent,
    lanes,
    load_sources,
    modulation,
    nhwc_empty,
    tiles,
)


@triton.jit
def add_residual(h, residual_ptr, total_ptr, n, row, channel, inside, hw, c1, ACC: tl.constexpr):
    """h + residual on the channels of the first source, rounded to h's type as plain torch would, and written."""
    first = inside & (channel < c1)[None, :]
    at = n * hw * c1 + row[:, None] * c1 + channel[None, :]
    total = (h.to(ACC) + tl.load(residual_ptr + at, mask=first, other=0.0).to(ACC)).to(h.dtype)
    tl.store(total_ptr + at, total, mask=first)
    return total


@triton.jit
def silu(z):
    return z / (1.0 + tl.exp(-z))


@triton.jit
def store_output(y_ptr, y, n, row, channel, inside, hw, side, c, UP: tl.constexpr):
    """Writes a tile, each row to its four places where the map doubles."""
    if UP:
        top = (row // side) * (4 * side) + (row % side) * 2
        at = y_ptr + n * 4 * hw * c + top[:, None] * c + channel[None, :]
        tl.store(at, y, mask=inside)
        tl.store(at + c, y, mask=inside)
        tl.store(at + 2 * side * c, y, mask=inside)
        tl.store(at + (2 * side + 1) * c, y, mask=inside)
    else:
        tl.store(y_ptr + n * hw * c + row[:, None] * c + channel[None, :], y, mask=inside)


@triton.jit
def _one_pass(
    x_ptr, residual_ptr, other_ptr, weight_ptr, bias_ptr, scale_ptr, shift_ptr, key_ptr, y_ptr, total_ptr, mean_ptr, rstd_ptr,
    hw, side, c1, c2, groups, modulation, eps, drop, keep_gain,
    TWO: tl.constexpr, RESIDUAL: tl.constexpr, ADAPTIVE: tl.constexpr, UP: tl.constexpr, DROPOUT: tl.constexpr,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, ACC: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(groups, CHANNELS // PADDED)
    n, block = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(0) % blocks
    channel, held = lanes(block, groups, WIDTH, PADDED, CHANNELS)
    row = tl.arange(0, ROWS)
    inside = (row < hw)[:, None] & held[None, :]
    h = load_sources(x_ptr, other_ptr, n, row, channel, inside, hw, c1, c2, TWO)
    if RESIDUAL:
        h = add_residual(h, residual_ptr, total_ptr, n, row, channel, inside, hw, c1, ACC)
    h = h.to(ACC)
    count = hw * WIDTH  # plain: Triton makes a constant of an hw of 1
    mean = by_group(tl.sum(h, 0), PADDED, CHANNELS) / count
    centred = tl.where(inside, h - by_channel(mean, PADDED, CHANNELS)[None, :], 0.0)
    rstd = 1.0 / tl.sqrt(by_group(tl.sum(centred * centred, 0), PADDED, CHANNELS) / count + eps)
    group = block * (CHANNELS // PADDED) + tl.arange(0, CHANNELS // PADDED)
    tl.store(mean_ptr + n * groups + group, mean, mask=group < groups)
    tl.store(rstd_ptr + n * groups + group, rstd, mask=group < groups)
    a, d = affine(weight_ptr, bias_ptr, scale_ptr, shift_ptr, n, channel, held, modulation, ADAPTIVE, ACC)
    y = silu(centred * (by_channel(rstd, PADDED, CHANNELS) * a)[None, :] + d[None, :])
    if DROPOUT:
        index = (n * hw + row)[:, None] * (c1 + c2) + channel[None, :]
        y = tl.where(keep_tile(key_ptr, index, drop), y * keep_gain, 0.0)
    store_output(y_ptr, y, n, row, channel, inside, hw, side, c1 + c2, UP)


@triton.jit
def _statistics(
    x_ptr, residual_ptr, other_ptr, total_ptr, partial_ptr, first, hw, c1, c2, chunks,
    TWO: tl.constexpr, RESIDUAL: tl.constexpr, ACC: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Mean and centred sum of squares of each channel over a chunk of rows: partial [samples, chunks, 2, C]."""
    c = c1 + c2
    blocks = tl.cdiv(c, CHANNELS)
    block, rest = tl.program_id(0) % blocks, tl.program_id(0) // blocks
    chunk, local = rest % chunks, (rest // chunks).to(tl.int64)
    channel = block * CHANNELS + tl.arange(0, CHANNELS)
    row = chunk * ROWS + tl.arange(0, ROWS)
    inside = (row < hw)[:, None] & (channel < c)[None, :]
    h = load_sources(x_ptr, other_ptr, first + local, row, channel, inside, hw, c1, c2, TWO)
    if RESIDUAL:
        h = add_residual(h, residual_ptr, total_ptr, first + local, row, channel, inside, hw, c1, ACC)
    h = h.to(ACC)
    mean = tl.sum(h, 0) / tl.minimum(ROWS, hw - chunk * ROWS).to(ACC)
    centred = tl.where(inside, h - mean[None, :], 0.0)
    at = partial_ptr + (local * chunks + chunk) * 2 * c + channel
    tl.store(at, mean, mask=channel < c)
    tl.store(at + c, tl.sum(centred * centred, 0), mask=channel < c)


@triton.jit
def _merge(
    partial_ptr, mean_ptr, rstd_ptr, first, hw, c, chunks, groups, eps,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, CHUNK_ROWS: tl.constexpr, TILE: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Merges the partials of one group of one sample (Chan et al. 1983): its mean, then the squares about that mean."""
    CHUNKS: tl.constexpr = TILE // PADDED if PADDED < TILE else 1
    group, local = tl.program_id(0) % groups, (tl.program_id(0) // groups).to(tl.int64)
    lane = tl.arange(0, PADDED)
    at = partial_ptr + local * chunks * 2 * c + (group * WIDTH + lane)[None, :]
    count = hw * WIDTH  # plain: Triton makes a constant of an hw of 1
    total = tl.zeros([PADDED], ACC)
    for start in range(0, chunks, CHUNKS):
        chunk = start + tl.arange(0, CHUNKS)
        inside = (chunk < chunks)[:, None] & (lane < WIDTH)[None, :]
        rows = tl.minimum(CHUNK_ROWS, hw - chunk * CHUNK_ROWS).to(ACC)
        total += tl.sum(tl.load(at + chunk[:, None] * 2 * c, mask=inside, other=0.0) * rows[:, None], 0)
    mean = tl.sum(total, 0) / count
    squares = tl.zeros([PADDED], ACC)
    for start in range(0, chunks, CHUNKS):
        chunk = start + tl.arange(0, CHUNKS)
        inside = (chunk < chunks)[:, None] & (lane < WIDTH)[None, :]
        rows = tl.minimum(CHUNK_ROWS, hw - chunk * CHUNK_ROWS).to(ACC)
        away = tl.load(at + chunk[:, None] * 2 * c, mask=inside, other=0.0) - mean
        within = tl.load(at + chunk[:, None] * 2 * c + c, mask=inside, other=0.0)
        squares += tl.sum(tl.where(inside, within + rows[:, None] * away * away, 0.0), 0)
    slot = (first + local) * groups + group
    tl.store(mean_ptr + slot, mean)
    tl.store(rstd_ptr + slot, 1.0 / tl.sqrt(tl.sum(squares, 0) / count + eps))


@triton.jit
def _apply(
    x_ptr, other_ptr, weight_ptr, bias_ptr, scale_ptr, shift_ptr, key_ptr, y_ptr, mean_ptr, rstd_ptr,
    first, hw, side, c1, c2, groups, modulation, chunks, drop, keep_gain,
    TWO: tl.constexpr, ADAPTIVE: tl.constexpr, MODE: tl.constexpr, DROPOUT: tl.constexpr,
    WIDTH: tl.constexpr, ACC: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Normalises, modulates and activates a chunk of rows; where the map halves, of rows of the smaller map, four pixels to one."""
    c = c1 + c2
    blocks = tl.cdiv(c, CHANNELS)
    block, rest = tl.program_id(0) % blocks, tl.program_id(0) // blocks
    n = first + (rest // chunks).to(tl.int64)
    channel = block * CHANNELS + tl.arange(0, CHANNELS)
    held = channel < c
    row = (rest % chunks) * ROWS + tl.arange(0, ROWS)
    a, d = affine(weight_ptr, bias_ptr, scale_ptr, shift_ptr, n, channel, held, modulation, ADAPTIVE, ACC)
    mean = tl.load(mean_ptr + n * groups + channel // WIDTH, mask=held, other=0.0).to(ACC)
    a *= tl.load(rstd_ptr + n * groups + channel // WIDTH, mask=held, other=0.0).to(ACC)
    if MODE == 2:
        half = side // 2
        inside = (row < hw // 4)[:, None] & held[None, :]
        y = tl.zeros([ROWS, CHANNELS], ACC)
        for tap in tl.static_range(4):
            source = (row // half * 2 + tap // 2) * side + row % half * 2 + tap % 2
            h = load_sources(x_ptr, other_ptr, n, source, channel, inside, hw, c1, c2, TWO).to(ACC)
            one = silu((h - mean[None, :]) * a[None, :] + d[None, :])
            if DROPOUT:
                one = tl.where(keep_tile(key_ptr, (n * hw + source)[:, None] * c + channel[None, :], drop), one * keep_gain, 0.0)
            y += 0.25 * one
        tl.store(y_ptr + n * (hw // 4) * c + row[:, None] * c + channel[None, :], y, mask=inside)
    else:
        inside = (row < hw)[:, None] & held[None, :]
        h = load_sources(x_ptr, other_ptr, n, row, channel, inside, hw, c1, c2, TWO).to(ACC)
        y = silu((h - mean[None, :]) * a[None, :] + d[None, :])
        if DROPOUT:
            y = tl.where(keep_tile(key_ptr, (n * hw + row)[:, None] * c + channel[None, :], drop), y * keep_gain, 0.0)
        store_output(y_ptr, y, n, row, channel, inside, hw, side, c, MODE == 1)


def launch_forward(
    x: Tensor,
    residual: Tensor | None,
    other: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    key: Tensor | None,
    groups: int,
    eps: float,
    resample: str,
    dropout: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y, x + residual (empty without one), mean and rstd [B, groups]."""
    size = extent(x, other, groups)
    for name, t in (("x", x), ("residual", residual), ("other", other)):
        if t is not None:
            dense_nhwc(t, name)
    sums = accumulator(x.dtype)
    mode = RESAMPLE[resample]
    height, side = {0: (size.height, size.side), 1: (2 * size.height, 2 * size.side), 2: (size.height // 2, size.side // 2)}[mode]
    y = nhwc_empty(x, size.channels, height, side)
    total = torch.empty_like(x) if residual is not None else x.new_empty(0)
    mean = torch.empty(size.batch, groups, dtype=statistics_dtype(x.dtype), device=x.device)
    rstd = torch.empty_like(mean)
    scale_, shift_, stride = modulation(x, scale, shift)
    sources = (x, residual if residual is not None else x, other if other is not None else x)
    affines = (weight.contiguous(), bias.contiguous(), scale_, shift_, key if key is not None else x)
    drop = (threshold(dropout), 1 / (1 - dropout))
    flags = {"TWO": other is not None, "ADAPTIVE": scale is not None, "DROPOUT": key is not None}

    # Halving reads four pixels for one, and Philox wants the registers that a large slab takes: both go in two passes.
    fits = mode != 2 and (key is None or size.hw <= SLABS[0])
    slab = size.slab("norm_forward", x) if fits else None
    if slab is not None:
        programs = size.batch * -(-groups // (slab.blocks["CHANNELS"] // size.padded))
        launch(
            wrap_triton(_one_pass), programs, slab, *sources, *affines, y, total, mean, rstd,
            size.hw, size.side, size.c1, size.c2, groups, stride, eps, *drop,
            **flags, RESIDUAL=residual is not None, UP=mode == 1, WIDTH=size.width, PADDED=size.padded, ACC=sums,
        )  # fmt: skip
        return y, total, mean, rstd

    reading, merging, applying = row("norm_statistics", "any", x), row("norm_merge", "any", x), row("norm_apply", "any", x)
    chunks, read_blocks = tiles(reading, size.hw, size.channels)
    apply_chunks, apply_blocks = tiles(applying, height * side if mode == 2 else size.hw, size.channels)
    normed = total if residual is not None else x
    for first, samples in size.slices(size.channels * x.element_size()):
        partial = torch.empty(samples, chunks, 2, size.channels, dtype=mean.dtype, device=x.device)
        launch(
            wrap_triton(_statistics), samples * chunks * read_blocks, reading, *sources, total, partial,
            first, size.hw, size.c1, size.c2, chunks, TWO=other is not None, RESIDUAL=residual is not None, ACC=sums,
        )  # fmt: skip
        launch(
            wrap_triton(_merge), samples * groups, merging, partial, mean, rstd,
            first, size.hw, size.channels, chunks, groups, eps,
            WIDTH=size.width, PADDED=size.padded, CHUNK_ROWS=reading.blocks["ROWS"], ACC=sums,
        )  # fmt: skip
        launch(
            wrap_triton(_apply), samples * apply_chunks * apply_blocks, applying, normed, sources[2], *affines, y, mean, rstd,
            first, size.hw, size.side, size.c1, size.c2, groups, stride, apply_chunks, *drop,
            **flags, MODE=mode, WIDTH=size.width, ACC=sums,
        )  # fmt: skip
    return y, total, mean, rstd
