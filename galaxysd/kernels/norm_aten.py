"""GroupNorm-SiLU on a CPU: native torch operators around an explicit backward, in whichever layout the map comes.

NCHW takes the library's channel affine for the condition's too: samples side by side are one sample of B C channels. In NHWC the affine
is a pass of its own. Every product is in the map's dtype; statistics and sums over pixels are in float32 or better.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from galaxysd.kernels.dropout import kept


def layout(x: Tensor) -> torch.memory_format:
    """NCHW for what is dense so, else NHWC."""
    return torch.contiguous_format if x.is_contiguous() else torch.channels_last


def _joined(x: Tensor, other: Tensor | None) -> Tensor:
    return x.contiguous(memory_format=layout(x)) if other is None else torch.cat((x, other), 1).contiguous(memory_format=layout(x))


def _affine(x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor | None, shift: Tensor | None) -> tuple[Tensor, Tensor]:
    """The two affines as one: multiplier and offset of the normalised value, [B, C]."""
    batch = x.shape[0]
    if scale is None or shift is None:
        return weight.expand(batch, -1), bias.expand(batch, -1)
    gain = 1 + scale.to(weight.dtype)
    return weight * gain, torch.addcmul(shift.to(weight.dtype), bias, gain)


def _per_pixel(values: Tensor, like: Tensor) -> Tensor:
    """Values [B, C] to be broadcast over the pixels of a map."""
    return values.to(like.dtype)[:, :, None, None]


def aten_forward(
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
    """What `norm_forward.launch_forward` gives."""
    total = x.new_empty(0) if residual is None else x + residual
    h = _joined(x if residual is None else total, other)
    batch, channels, height, width = h.shape
    a, b = _affine(h, weight, bias, scale, shift)
    if h.is_contiguous():
        rows = batch * channels
        side_by_side = h.view(1, rows, height, width)
        y, mean, rstd = torch.native_group_norm(
            side_by_side, a.reshape(rows), b.reshape(rows), 1, rows, height * width, batch * groups, eps
        )
        y = y.view_as(h)
    else:
        y, mean, rstd = torch.native_group_norm(h, None, None, batch, channels, height * width, groups, eps)
        y = torch.addcmul(_per_pixel(b, h), y, _per_pixel(a, h))
    y = F.silu(y, inplace=True)
    if key is not None:
        y = y * (kept(key, h.shape, dropout).to(y.dtype) / (1 - dropout))
    if resample == "up":
        y = F.interpolate(y, scale_factor=2.0, mode="nearest")
    elif resample == "down":
        y = F.avg_pool2d(y, 2)
    return y.contiguous(memory_format=layout(h)), total, mean.view(batch, groups), rstd.view(batch, groups)


def aten_backward(
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
    """What `norm_backward.launch_backward` gives."""
    h = _joined(x, other)
    if resample == "up":
        dy = F.avg_pool2d(dy, 2) * 4
    elif resample == "down":
        dy = F.interpolate(dy, scale_factor=2.0, mode="nearest") / 4
    if key is not None:
        dy = dy * (kept(key, h.shape, dropout).to(dy.dtype) / (1 - dropout))
    batch, channels, height, width = h.shape
    a, b = _affine(h, weight, bias, scale, shift)
    spread_mean, spread_rstd = (s.repeat_interleave(channels // groups, 1) for s in (mean, rstd))  # [B, C]
    slope = a * spread_rstd
    n = torch.addcmul(_per_pixel(b - spread_mean * slope, h), h, _per_pixel(slope, h))
    dn = torch.ops.aten.silu_backward(dy, n)
    every = [True, True, True]
    if h.is_contiguous():
        rows = batch * channels
        dh, da, db = torch.ops.aten.native_group_norm_backward(
            dn.contiguous().view(1, rows, height, width), h.view(1, rows, height, width), mean.reshape(1, -1), rstd.reshape(1, -1),
            a.reshape(rows), 1, rows, height * width, batch * groups, every,
        )  # fmt: skip
        dh, da, db = dh.view_as(h), da.view(batch, channels).to(weight.dtype), db.view(batch, channels).to(weight.dtype)
    else:
        hat = (h.to(weight.dtype) - spread_mean[:, :, None, None]) * spread_rstd[:, :, None, None]
        wide = dn.to(weight.dtype)
        da, db = (wide * hat).sum((2, 3)), wide.sum((2, 3))
        dh, _, _ = torch.ops.aten.native_group_norm_backward(
            (wide * a[:, :, None, None]).to(h.dtype, memory_format=torch.channels_last),
            h, mean, rstd, None, batch, channels, height * width, groups, [True, False, False],
        )  # fmt: skip
    dx, dother = (
        (dh, h.new_empty(0))
        if other is None
        else (part.contiguous(memory_format=layout(x)) for part in dh.split([x.shape[1], other.shape[1]], 1))
    )
    dx = dx if x_addend is None else dx + x_addend
    dother = dother if other_addend is None else dother + other_addend
    if scale is None:
        return dx, dother, da.sum(0), db.sum(0), weight.new_empty(0), weight.new_empty(0)
    gain = 1 + scale.to(weight.dtype)
    return dx, dother, (da * gain).sum(0), (db * gain).sum(0), (da * weight + db * bias).to(scale.dtype), db.to(scale.dtype)
