"""GroupNorm-SiLU backward on NHWC maps: one pass where a slab of x and dy stays in registers, two passes above; no atomics.

With z = a xhat + d, a = (1 + scale) w, d = (1 + scale) b + shift and g = dy silu'(z), the sums of each sample and channel

    S1 = sum g,   S2 = sum g xhat

give every small gradient: dshift = S1, dscale = w S2 + b S1, dw = sum_n (1 + scale) S2, db = sum_n (1 + scale) S1. With m1 and m2
the means over a group of a S1 and a S2, dx = rstd (a g - m1 - xhat m2). xhat is recomputed; y is never kept. The gradient of a skip
branch comes in as an addend, so that no pass over three maps stands beside this one. Bytes, for a map of E elements of s bytes: 3 E s
in one pass, 4 E s with the addend; two-pass reads x and dy again, out of L2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from galaxysd.kernels.dropout import keep_tile, threshold
from galaxysd.kernels.launching import accumulator, launch, row, tl, triton, wrap_triton
from galaxysd.kernels.norm_tiles import (
    RESAMPLE,
    affine,
    by_channel,
    by_group,
    dense_nhwc,
    extent,
    lanes,
    load_sources,
    modulation,
    tiles,
)


@triton.jit
def load_gradient(dy_ptr, n, row, channel, inside, hw, side, c, MODE: tl.constexpr, ACC: tl.constexpr):
    """The gradient of the activation before resampling: dy; the sum of its four copies; a quarter of the pixel it went into."""
    if MODE == 1:
        top = (row // side) * (4 * side) + (row % side) * 2
        at = dy_ptr + n * 4 * hw * c + top[:, None] * c + channel[None, :]
        upper = tl.load(at, mask=inside, other=0.0).to(ACC) + tl.load(at + c, mask=inside, other=0.0).to(ACC)
        at += 2 * side * c
        return upper + (tl.load(at, mask=inside, other=0.0).to(ACC) + tl.load(at + c, mask=inside, other=0.0).to(ACC))
    if MODE == 2:
        half = side // 2
        source = (row // side // 2) * half + row % side // 2
        at = dy_ptr + n * (hw // 4) * c + source[:, None] * c + channel[None, :]
        return 0.25 * tl.load(at, mask=inside, other=0.0).to(ACC)
    return tl.load(dy_ptr + n * hw * c + row[:, None] * c + channel[None, :], mask=inside, other=0.0).to(ACC)


@triton.jit
def silu_gradient(dy, z):
    sigmoid = 1.0 / (1.0 + tl.exp(-z))
    return dy * sigmoid * (1.0 + z * (1.0 - sigmoid))


@triton.jit
def store_sources(dx_ptr, dother_ptr, xadd_ptr, oadd_ptr, dx, n, row, channel, inside, hw, c1, c2,
                  TWO: tl.constexpr, XADD: tl.constexpr, OADD: tl.constexpr, ACC: tl.constexpr):  # fmt: skip
    """Writes a tile of the gradient to the source it belongs to, the skip branch's own gradient added."""
    left = inside & (channel < c1)[None, :]
    at = n * hw * c1 + row[:, None] * c1 + channel[None, :]
    first = dx
    if XADD:
        first += tl.load(xadd_ptr + at, mask=left, other=0.0).to(ACC)
    tl.store(dx_ptr + at, first, mask=left)
    if TWO:
        right = inside & (channel >= c1)[None, :]
        at = n * hw * c2 + row[:, None] * c2 + (channel - c1)[None, :]
        if OADD:
            dx += tl.load(oadd_ptr + at, mask=right, other=0.0).to(ACC)
        tl.store(dother_ptr + at, dx, mask=right)


@triton.jit
def store_sums(sums_ptr, dscale_ptr, dshift_ptr, weight_ptr, bias_ptr, s1, s2, n, channel, held, c, ADAPTIVE: tl.constexpr):
    """S1 and S2 [B, 2, C], and the modulation's gradient, which is made of them."""
    tl.store(sums_ptr + n * 2 * c + channel, s1, mask=held)
    tl.store(sums_ptr + n * 2 * c + c + channel, s2, mask=held)
    if ADAPTIVE:
        weight = tl.load(weight_ptr + channel, mask=held, other=0.0).to(s1.dtype)
        bias = tl.load(bias_ptr + channel, mask=held, other=0.0).to(s1.dtype)
        tl.store(dscale_ptr + n * c + channel, weight * s2 + bias * s1, mask=held)
        tl.store(dshift_ptr + n * c + channel, s1, mask=held)


@triton.jit
def recomputed(
    dy_ptr, x_ptr, other_ptr, weight_ptr, bias_ptr, scale_ptr, shift_ptr, key_ptr, mean_ptr, rstd_ptr, n, row, channel, held, inside,
    hw, side, c1, c2, groups, modulation, drop, keep_gain,
    TWO: tl.constexpr, ADAPTIVE: tl.constexpr, MODE: tl.constexpr, DROPOUT: tl.constexpr, WIDTH: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """xhat and g of a tile, and its channels' multiplier a."""
    c = c1 + c2
    a, d = affine(weight_ptr, bias_ptr, scale_ptr, shift_ptr, n, channel, held, modulation, ADAPTIVE, ACC)
    mean = tl.load(mean_ptr + n * groups + channel // WIDTH, mask=held, other=0.0).to(ACC)
    rstd = tl.load(rstd_ptr + n * groups + channel // WIDTH, mask=held, other=0.0).to(ACC)
    h = load_sources(x_ptr, other_ptr, n, row, channel, inside, hw, c1, c2, TWO).to(ACC)
    xhat = tl.where(inside, (h - mean[None, :]) * rstd[None, :], 0.0)
    g = load_gradient(dy_ptr, n, row, channel, inside, hw, side, c, MODE, ACC)
    if DROPOUT:
        g = tl.where(keep_tile(key_ptr, (n * hw + row)[:, None] * c + channel[None, :], drop), g * keep_gain, 0.0)
    return xhat, silu_gradient(g, xhat * a[None, :] + d[None, :]), a


@triton.jit
def _one_pass(
    dy_ptr, x_ptr, other_ptr, weight_ptr, bias_ptr, scale_ptr, shift_ptr, key_ptr, mean_ptr, rstd_ptr, xadd_ptr, oadd_ptr,
    dx_ptr, dother_ptr, sums_ptr, dscale_ptr, dshift_ptr,
    hw, side, c1, c2, groups, modulation, drop, keep_gain,
    TWO: tl.constexpr, XADD: tl.constexpr, OADD: tl.constexpr, ADAPTIVE: tl.constexpr, MODE: tl.constexpr, DROPOUT: tl.constexpr,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, ACC: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(groups, CHANNELS // PADDED)
    n, block = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(0) % blocks
    channel, held = lanes(block, groups, WIDTH, PADDED, CHANNELS)
    row, c = tl.arange(0, ROWS), c1 + c2
    inside = (row < hw)[:, None] & held[None, :]
    xhat = load_sources(x_ptr, other_ptr, n, row, channel, inside, hw, c1, c2, TWO).to(ACC)
    g = load_gradient(dy_ptr, n, row, channel, inside, hw, side, c, MODE, ACC)
    a, d = affine(weight_ptr, bias_ptr, scale_ptr, shift_ptr, n, channel, held, modulation, ADAPTIVE, ACC)
    group = n * groups + block * (CHANNELS // PADDED) + tl.arange(0, CHANNELS // PADDED)
    known = group < (n + 1) * groups
    rstd = tl.load(rstd_ptr + group, mask=known, other=0.0).to(ACC)
    mean = tl.load(mean_ptr + group, mask=known, other=0.0).to(ACC)
    spread = by_channel(rstd, PADDED, CHANNELS)
    xhat = tl.where(inside, (xhat - by_channel(mean, PADDED, CHANNELS)[None, :]) * spread[None, :], 0.0)
    if DROPOUT:
        g = tl.where(keep_tile(key_ptr, (n * hw + row)[:, None] * c + channel[None, :], drop), g * keep_gain, 0.0)
    g = silu_gradient(g, xhat * a[None, :] + d[None, :])
    s1, s2 = tl.sum(g, 0), tl.sum(g * xhat, 0)
    store_sums(sums_ptr, dscale_ptr, dshift_ptr, weight_ptr, bias_ptr, s1, s2, n, channel, held, c, ADAPTIVE)
    count = hw * WIDTH  # plain: Triton makes a constant of an hw of 1
    m1 = by_channel(by_group(a * s1, PADDED, CHANNELS) / count, PADDED, CHANNELS)
    m2 = by_channel(by_group(a * s2, PADDED, CHANNELS) / count, PADDED, CHANNELS)
    dx = spread[None, :] * (a[None, :] * g - m1[None, :] - xhat * m2[None, :])
    store_sources(dx_ptr, dother_ptr, xadd_ptr, oadd_ptr, dx, n, row, channel, inside, hw, c1, c2, TWO, XADD, OADD, ACC)


@triton.jit
def _reload(
    dy_ptr, x_ptr, other_ptr, weight_ptr, bias_ptr, scale_ptr, shift_ptr, key_ptr, mean_ptr, rstd_ptr, xadd_ptr, oadd_ptr,
    dx_ptr, dother_ptr, sums_ptr, dscale_ptr, dshift_ptr,
    hw, side, c1, c2, groups, modulation, drop, keep_gain,
    TWO: tl.constexpr, XADD: tl.constexpr, OADD: tl.constexpr, ADAPTIVE: tl.constexpr, MODE: tl.constexpr, DROPOUT: tl.constexpr,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, ACC: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """The one-pass backward of a slab that registers do not hold: reads it twice, ROWS at a time, the second time out of cache."""
    blocks = tl.cdiv(groups, CHANNELS // PADDED)
    n, block = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(0) % blocks
    channel, held = lanes(block, groups, WIDTH, PADDED, CHANNELS)
    s1, s2 = tl.zeros([CHANNELS], ACC), tl.zeros([CHANNELS], ACC)
    for start in range(0, hw, ROWS):
        row = start + tl.arange(0, ROWS)
        inside = (row < hw)[:, None] & held[None, :]
        xhat, g, _ = recomputed(
            dy_ptr, x_ptr, other_ptr, weight_ptr, bias_ptr, scale_ptr, shift_ptr, key_ptr, mean_ptr, rstd_ptr, n, row, channel, held,
            inside, hw, side, c1, c2, groups, modulation, drop, keep_gain, TWO, ADAPTIVE, MODE, DROPOUT, WIDTH, ACC,
        )  # fmt: skip
        s1 += tl.sum(g, 0)
        s2 += tl.sum(g * xhat, 0)
    store_sums(sums_ptr, dscale_ptr, dshift_ptr, weight_ptr, bias_ptr, s1, s2, n, channel, held, c1 + c2, ADAPTIVE)
    a, _ = affine(weight_ptr, bias_ptr, scale_ptr, shift_ptr, n, channel, held, modulation, ADAPTIVE, ACC)
    rstd = tl.load(rstd_ptr + n * groups + channel // WIDTH, mask=held, other=0.0).to(ACC)
    count = hw * WIDTH  # plain: Triton makes a constant of an hw of 1
    m1 = by_channel(by_group(a * s1, PADDED, CHANNELS) / count, PADDED, CHANNELS)
    m2 = by_channel(by_group(a * s2, PADDED, CHANNELS) / count, PADDED, CHANNELS)
    for start in range(0, hw, ROWS):
        row = start + tl.arange(0, ROWS)
        inside = (row < hw)[:, None] & held[None, :]
        xhat, g, _ = recomputed(
            dy_ptr, x_ptr, other_ptr, weight_ptr, bias_ptr, scale_ptr, shift_ptr, key_ptr, mean_ptr, rstd_ptr, n, row, channel, held,
            inside, hw, side, c1, c2, groups, modulation, drop, keep_gain, TWO, ADAPTIVE, MODE, DROPOUT, WIDTH, ACC,
        )  # fmt: skip
        dx = rstd[None, :] * (a[None, :] * g - m1[None, :] - xhat * m2[None, :])
        store_sources(dx_ptr, dother_ptr, xadd_ptr, oadd_ptr, dx, n, row, channel, inside, hw, c1, c2, TWO, XADD, OADD, ACC)


@triton.jit
def _partials(
    dy_ptr, x_ptr, other_ptr, weight_ptr, bias_ptr, scale_ptr, shift_ptr, key_ptr, mean_ptr, rstd_ptr, partial_ptr,
    first, hw, side, c1, c2, groups, modulation, chunks, drop, keep_gain,
    TWO: tl.constexpr, ADAPTIVE: tl.constexpr, MODE: tl.constexpr, DROPOUT: tl.constexpr,
    WIDTH: tl.constexpr, ACC: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """S1 and S2 of each channel over a chunk of rows: partial [samples, chunks, 2, C]."""
    c = c1 + c2
    blocks = tl.cdiv(c, CHANNELS)
    block, rest = tl.program_id(0) % blocks, tl.program_id(0) // blocks
    chunk, local = rest % chunks, (rest // chunks).to(tl.int64)
    n = first + local
    channel = block * CHANNELS + tl.arange(0, CHANNELS)
    held = channel < c
    row = chunk * ROWS + tl.arange(0, ROWS)
    inside = (row < hw)[:, None] & held[None, :]
    xhat, g, _ = recomputed(
        dy_ptr, x_ptr, other_ptr, weight_ptr, bias_ptr, scale_ptr, shift_ptr, key_ptr, mean_ptr, rstd_ptr, n, row, channel, held, inside,
        hw, side, c1, c2, groups, modulation, drop, keep_gain, TWO, ADAPTIVE, MODE, DROPOUT, WIDTH, ACC,
    )  # fmt: skip
    at = partial_ptr + (local * chunks + chunk) * 2 * c + channel
    tl.store(at, tl.sum(g, 0), mask=held)
    tl.store(at + c, tl.sum(g * xhat, 0), mask=held)


@triton.jit
def _gather(
    partial_ptr, weight_ptr, bias_ptr, scale_ptr, means_ptr, sums_ptr, dscale_ptr, dshift_ptr,
    first, hw, c, chunks, groups, modulation,
    ADAPTIVE: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr, TILE: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Adds up the partials of one group of one sample in order: S1, S2, and the group's m1, m2 -> means [B, groups, 2]."""
    CHUNKS: tl.constexpr = TILE // PADDED if PADDED < TILE else 1
    group, local = tl.program_id(0) % groups, (tl.program_id(0) // groups).to(tl.int64)
    n, lane = first + local, tl.arange(0, PADDED)
    channel, held = group * WIDTH + lane, lane < WIDTH
    at = partial_ptr + local * chunks * 2 * c + channel[None, :]
    s1, s2 = tl.zeros([PADDED], ACC), tl.zeros([PADDED], ACC)
    for start in range(0, chunks, CHUNKS):
        chunk = start + tl.arange(0, CHUNKS)
        inside = (chunk < chunks)[:, None] & held[None, :]
        s1 += tl.sum(tl.load(at + chunk[:, None] * 2 * c, mask=inside, other=0.0), 0)
        s2 += tl.sum(tl.load(at + chunk[:, None] * 2 * c + c, mask=inside, other=0.0), 0)
    store_sums(sums_ptr, dscale_ptr, dshift_ptr, weight_ptr, bias_ptr, s1, s2, n, channel, held, c, ADAPTIVE)
    a = tl.load(weight_ptr + channel, mask=held, other=0.0).to(ACC)
    if ADAPTIVE:
        a *= 1.0 + tl.load(scale_ptr + n * modulation + channel, mask=held, other=0.0).to(ACC)
    count = hw * WIDTH  # plain: Triton makes a constant of an hw of 1
    tl.store(means_ptr + (n * groups + group) * 2, tl.sum(a * s1, 0) / count)
    tl.store(means_ptr + (n * groups + group) * 2 + 1, tl.sum(a * s2, 0) / count)


@triton.jit
def _spread(
    dy_ptr, x_ptr, other_ptr, weight_ptr, bias_ptr, scale_ptr, shift_ptr, key_ptr, mean_ptr, rstd_ptr, xadd_ptr, oadd_ptr, means_ptr,
    dx_ptr, dother_ptr, first, hw, side, c1, c2, groups, modulation, chunks, drop, keep_gain,
    TWO: tl.constexpr, XADD: tl.constexpr, OADD: tl.constexpr, ADAPTIVE: tl.constexpr, MODE: tl.constexpr, DROPOUT: tl.constexpr,
    WIDTH: tl.constexpr, ACC: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """dx of a chunk of rows, from the group's means."""
    c = c1 + c2
    blocks = tl.cdiv(c, CHANNELS)
    block, rest = tl.program_id(0) % blocks, tl.program_id(0) // blocks
    n = first + (rest // chunks).to(tl.int64)
    channel = block * CHANNELS + tl.arange(0, CHANNELS)
    held = channel < c
    row = (rest % chunks) * ROWS + tl.arange(0, ROWS)
    inside = (row < hw)[:, None] & held[None, :]
    xhat, g, a = recomputed(
        dy_ptr, x_ptr, other_ptr, weight_ptr, bias_ptr, scale_ptr, shift_ptr, key_ptr, mean_ptr, rstd_ptr, n, row, channel, held, inside,
        hw, side, c1, c2, groups, modulation, drop, keep_gain, TWO, ADAPTIVE, MODE, DROPOUT, WIDTH, ACC,
    )  # fmt: skip
    slot = n * groups + channel // WIDTH
    m1, m2 = tl.load(means_ptr + slot * 2, mask=held, other=0.0), tl.load(means_ptr + slot * 2 + 1, mask=held, other=0.0)
    rstd = tl.load(rstd_ptr + slot, mask=held, other=0.0).to(ACC)
    dx = rstd[None, :] * (a[None, :] * g - m1[None, :] - xhat * m2[None, :])
    store_sources(dx_ptr, dother_ptr, xadd_ptr, oadd_ptr, dx, n, row, channel, inside, hw, c1, c2, TWO, XADD, OADD, ACC)


@triton.jit
def _over_batch(
    sums_ptr, scale_ptr, dweight_ptr, dbias_ptr, batch, c, modulation,
    ADAPTIVE: tl.constexpr, ACC: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """dw and db: the sums of every sample, weighed by its 1 + scale, added in the batch's order."""
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    held = channel < c
    dweight, dbias = tl.zeros([CHANNELS], ACC), tl.zeros([CHANNELS], ACC)
    for start in range(0, batch, ROWS):
        n = (start + tl.arange(0, ROWS)).to(tl.int64)
        inside = (n < batch)[:, None] & held[None, :]
        at = sums_ptr + n[:, None] * 2 * c + channel[None, :]
        s1, s2 = tl.load(at, mask=inside, other=0.0), tl.load(at + c, mask=inside, other=0.0)
        if ADAPTIVE:
            gain = 1.0 + tl.load(scale_ptr + n[:, None] * modulation + channel[None, :], mask=inside, other=0.0).to(ACC)
            s1, s2 = s1 * gain, s2 * gain
        dbias += tl.sum(s1, 0)
        dweight += tl.sum(s2, 0)
    tl.store(dweight_ptr + channel, dweight, mask=held)
    tl.store(dbias_ptr + channel, dbias, mask=held)


def launch_backward(
    dy: Tensor,
    x: Tensor,
    other: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    key: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    x_addend: Tensor | None,
    other_addend: Tensor | None,
    groups: int,
    resample: str,
    dropout: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """dx, dother (empty without `other`), dweight, dbias, dscale, dshift (empty without modulation); x is the sum, if there was one."""
    size, sums_type, mode = extent(x, other, groups), accumulator(x.dtype), RESAMPLE[resample]
    dense_nhwc(x, "x")
    # What autograd hands over may be a slice of a concatenation's gradient, or one value expanded: made dense here.
    dy = dy.contiguous(memory_format=torch.channels_last)
    x_addend, other_addend = (t if t is None else t.contiguous(memory_format=torch.channels_last) for t in (x_addend, other_addend))
    dx, dother = torch.empty_like(x), torch.empty_like(other) if other is not None else x.new_empty(0)
    dweight, dbias = torch.empty_like(weight), torch.empty_like(bias)
    dscale, dshift = (
        t.new_empty(t.shape if scale is not None else 0) for t in (scale if scale is not None else x, shift if shift is not None else x)
    )
    sums = torch.empty(size.batch, 2, size.channels, dtype=mean.dtype, device=x.device)
    scale_, shift_, stride = modulation(x, scale, shift)
    weight, bias = weight.contiguous(), bias.contiguous()
    inputs = (dy, x, other if other is not None else x, weight, bias, scale_, shift_, key if key is not None else x, mean, rstd)
    addends = (x_addend if x_addend is not None else x, other_addend if other_addend is not None else x)
    drop = (threshold(dropout), 1 / (1 - dropout))
    flags = {"TWO": other is not None, "ADAPTIVE": scale is not None, "MODE": mode, "DROPOUT": key is not None, "WIDTH": size.width}
    added = {"XADD": x_addend is not None, "OADD": other_addend is not None}

    slab = size.slab("norm_backward", x)
    if slab is not None:
        programs = size.batch * -(-groups // (slab.blocks["CHANNELS"] // size.padded))
        kernel = wrap_triton(_one_pass) if size.hw <= slab.blocks["ROWS"] else wrap_triton(_reload)
        launch(
            kernel, programs, slab, *inputs, *addends, dx, dother, sums, dscale, dshift,
            size.hw, size.side, size.c1, size.c2, groups, stride, *drop, **flags, **added, PADDED=size.padded, ACC=sums_type,
        )  # fmt: skip
    else:
        reading, gathering, spreading = row("norm_partials", "any", x), row("norm_gather", "any", x), row("norm_spread", "any", x)
        read_chunks, read_blocks = tiles(reading, size.hw, size.channels)
        chunks, blocks = tiles(spreading, size.hw, size.channels)
        means = torch.empty(size.batch, groups, 2, dtype=mean.dtype, device=x.device)
        for first, samples in size.slices(2 * size.channels * x.element_size()):
            partial = torch.empty(samples, read_chunks, 2, size.channels, dtype=mean.dtype, device=x.device)
            launch(
                wrap_triton(_partials), samples * read_chunks * read_blocks, reading, *inputs, partial,
                first, size.hw, size.side, size.c1, size.c2, groups, stride, read_chunks, *drop, **flags, ACC=sums_type,
            )  # fmt: skip
            launch(
                wrap_triton(_gather), samples * groups, gathering, partial, weight, bias, scale_, means, sums, dscale, dshift,
                first, size.hw, size.channels, read_chunks, groups, stride,
                ADAPTIVE=scale is not None, WIDTH=size.width, PADDED=size.padded, ACC=sums_type,
            )  # fmt: skip
            launch(
                wrap_triton(_spread), samples * chunks * blocks, spreading, *inputs, *addends, means, dx, dother,
                first, size.hw, size.side, size.c1, size.c2, groups, stride, chunks, *drop, **flags, **added, ACC=sums_type,
            )  # fmt: skip
    adding = row("norm_over_batch", "any", x)
    launch(
        wrap_triton(_over_batch), -(-size.channels // adding.blocks["CHANNELS"]), adding, sums, scale_, dweight, dbias,
        size.batch, size.channels, stride, ADAPTIVE=scale is not None, ACC=sums_type,
    )  # fmt: skip
    return dx, dother, dweight, dbias, dscale, dshift
