"""What the forward and backward kernels of GroupNorm-SiLU share: sizes and layouts of a call, and how a tile is read.

Maps are NHWC: a tile is rows (pixels) by channels. In one-pass kernels a block of channels holds whole groups, each padded to a power
of two; two-pass kernels take any run of channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from galaxysd.kernels.launching import Row, row, tl, triton

RESAMPLE = {"none": 0, "up": 1, "down": 2}
SLABS = (64, 256, 1024)  # rows of a map that one program holds at most; the classes of the launch table
SLICE = 20 << 20  # bytes of a map whose second reading still finds it in L2


@dataclass(frozen=True)
class Extent:
    """The sizes of one call: rows are the pixels of the input's map, channels those of both sources."""

    batch: int
    height: int
    side: int
    c1: int
    c2: int
    groups: int

    @property
    def hw(self) -> int:
        return self.height * self.side

    @property
    def channels(self) -> int:
        return self.c1 + self.c2

    @property
    def width(self) -> int:
        """Channels of a group."""
        return self.channels // self.groups

    @property
    def padded(self) -> int:
        return 1 << (self.width - 1).bit_length()

    def slab(self, op: str, x: Tensor) -> Row | None:
        """The row of the one-pass kernel, where rows and a whole group fit it."""
        for rows in SLABS:
            if self.hw <= rows:
                found = row(op, f"rows<={rows}", x)
                return found if self.padded <= found.blocks["CHANNELS"] else None
        return None

    def slices(self, row_bytes: int) -> list[tuple[int, int]]:
        """(first, samples) of the slices of the batch whose maps, `row_bytes` for each pixel, stay in L2 between two readings."""
        step = max(1, SLICE // max(1, self.hw * row_bytes))
        return [(first, min(step, self.batch - first)) for first in range(0, self.batch, step)]


def extent(x: Tensor, other: Tensor | None, groups: int) -> Extent:
    """The sizes of a call on NHWC maps; refuses a map too large for 32-bit offsets within a sample."""
    batch, c1, height, side = x.shape
    found = Extent(batch, height, side, c1, 0 if other is None else other.shape[1], groups)
    if 4 * found.hw * found.channels >= 2**31:
        raise ValueError(
            f"group_norm_silu: a sample of {height}x{side} pixels and {found.channels} channels is too large for these kernels"
        )
    return found


def modulation(x: Tensor, scale: Tensor | None, shift: Tensor | None) -> tuple[Tensor, Tensor, int]:
    """Scale and shift with the stride of their rows: as they are where a row is dense, x as a placeholder where there are none."""
    if scale is None or shift is None:
        return x, x, 0
    if scale.stride(1) != 1 or shift.stride(1) != 1 or scale.stride(0) != shift.stride(0):
        scale, shift = scale.contiguous(), shift.contiguous()
    return scale, shift, scale.stride(0)


def dense_nhwc(t: Tensor, name: str) -> Tensor:
    """The tensor, which must be laid out NHWC."""
    if not t.is_contiguous(memory_format=torch.channels_last):
        raise ValueError(
            f"group_norm_silu: {name} {tuple(t.shape)} has strides {t.stride()}, not those of NHWC; "
            f"use {name}.contiguous(memory_format=torch.channels_last)"
        )
    return t


def nhwc_empty(like: Tensor, channels: int, height: int, width: int) -> Tensor:
    """Room for a map in NHWC."""
    size = (like.shape[0], channels, height, width)
    return torch.empty(size, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


@triton.jit
def lanes(block, groups, WIDTH: tl.constexpr, PADDED: tl.constexpr, CHANNELS: tl.constexpr):
    """Channels of a block of whole groups [CHANNELS], each group padded to a power of two, and which lanes hold one."""
    lane = tl.arange(0, CHANNELS)
    group = block * (CHANNELS // PADDED) + lane // PADDED
    if WIDTH == PADDED:
        channel = block * CHANNELS + lane  # said this way, the compiler sees a run
    else:
        channel = group * WIDTH + lane % PADDED
    return channel, (group < groups) & (lane % PADDED < WIDTH)


@triton.jit
def by_group(values, PADDED: tl.constexpr, CHANNELS: tl.constexpr):
    """Sums of channels [CHANNELS] -> sums of groups [CHANNELS / PADDED]."""
    return tl.sum(tl.reshape(values, [CHANNELS // PADDED, PADDED]), 1)


@triton.jit
def by_channel(values, PADDED: tl.constexpr, CHANNELS: tl.constexpr):
    """Values of groups [CHANNELS / PADDED] -> the same for each of their channels [CHANNELS]."""
    return tl.reshape(tl.broadcast_to(values[:, None], [CHANNELS // PADDED, PADDED]), [CHANNELS])


@triton.jit
def load_sources(x_ptr, other_ptr, n, row, channel, inside, hw, c1, c2, TWO: tl.constexpr):
    """A tile [rows, channels] of sample n of cat(x, other); zero outside."""
    at = x_ptr + n * hw * c1 + row[:, None] * c1 + channel[None, :]
    if TWO:
        left = (channel < c1)[None, :]
        first = tl.load(at, mask=inside & left, other=0.0)
        at = other_ptr + n * hw * c2 + row[:, None] * c2 + (channel - c1)[None, :]
        return tl.where(left, first, tl.load(at, mask=inside & (channel >= c1)[None, :], other=0.0))
    return tl.load(at, mask=inside, other=0.0)


@triton.jit
def affine(weight_ptr, bias_ptr, scale_ptr, shift_ptr, n, channel, held, modulation, ADAPTIVE: tl.constexpr, ACC: tl.constexpr):
    """Both affines as one: multiplier and offset of the normalised value [CHANNELS]."""
    a = tl.load(weight_ptr + channel, mask=held, other=0.0).to(ACC)
    d = tl.load(bias_ptr + channel, mask=held, other=0.0).to(ACC)
    if ADAPTIVE:
        gain = 1.0 + tl.load(scale_ptr + n * modulation + channel, mask=held, other=0.0).to(ACC)
        a *= gain
        d = d * gain + tl.load(shift_ptr + n * modulation + channel, mask=held, other=0.0).to(ACC)
    return a, d


def tiles(row: Row, rows: int, channels: int) -> tuple[int, int]:
    """How many blocks of a two-pass kernel cover rows and channels."""
    return -(-rows // row.blocks["ROWS"]), -(-channels // row.blocks["CHANNELS"])
