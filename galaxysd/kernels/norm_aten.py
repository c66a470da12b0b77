"""GroupNorm-SiLU on a CPU: native torch operators around an explicit backward, in whichever layout the map comes.

What the library's norm gives is kept for backward, as plain modules keep it: here memory is cheaper than a pass. A condition's affine is
made one with the library's own in NCHW, where samples side by side are one sample of B C channels; in NHWC it is a pass of its own, and
done again in backward. Statistics and sums over pixels are in float32 or better.
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


def _affine(weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """The two affines as one: multiplier and offset of the normalised value, [B, C]."""
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
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """What `norm_forward.launch_forward` gives."""
    total = x.new_empty(0) if residual is None else x + residual
    h = _joined(x if residual is None else total, other)
    batch, channels, height, width = h.shape
    if scale is None or shift is None:
        pre, mean, rstd = torch.native_group_norm(h, weight, bias, batch, channels, height * width, groups, eps)
        y = F.silu(pre)
    elif h.is_contiguous():
        a, b = _affine(weight, bias, scale, shift)
        rows, beside = batch * channels, (1, batch * channels, height, width)
        pre, mean, rstd = torch.native_group_norm(
            h.view(beside), a.reshape(rows), b.reshape(rows), 1, rows, height * width, batch * groups, eps
        )
        pre = pre.view(h.shape)
        y = F.silu(pre)
    else:
        a, b = _affine(weight, bias, scale, shift)
        pre, mean, rstd = torch.native_group_norm(h, None, None, batch, channels, height * width, groups, eps)
        y = F.silu(torch.addcmul(_per_pixel(b, h), pre, _per_pixel(a, h)), inplace=True)
    if key is not None:
        y = y * (kept(key, h.shape, dropout).to(y.dtype) / (1 - dropout))
    if resample == "up":
        y = F.interpolate(y, scale_factor=2.0, mode="nearest")
    elif resample == "down":
        y = F.avg_pool2d(y, 2)
    return y.contiguous(memory_format=layout(h)), total, mean.view(batch, groups), rstd.view(batch, groups), pre


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
    pre: Tensor,
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
    dx, dweight, dbias, dscale, dshift = _through_norm(dy, h, weight, bias, scale, shift, mean, rstd, pre, groups)
    dother = h.new_empty(0)
    if other is not None:
        dx, dother = (part.contiguous(memory_format=layout(x)) for part in dx.split([x.shape[1], other.shape[1]], 1))
    dx = dx if x_addend is None else dx + x_addend
    dother = dother if other_addend is None else dother + other_addend
    return dx, dother, dweight, dbias, dscale, dshift


def _through_norm(
    dy: Tensor,
    h: Tensor,
    weight: Tensor,
    bias: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    pre: Tensor,
    groups: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """From the gradient of the activation: dh, dweight, dbias, dscale, dshift."""
    batch, channels, height, width = h.shape
    through_silu, through_norm = torch.ops.aten.silu_backward, torch.ops.aten.native_group_norm_backward
    dy = dy.contiguous(memory_format=layout(h))
    if scale is None or shift is None:
        none = weight.new_empty(0)
        dn = through_silu(dy, pre)
        found = through_norm(dn, h, mean, rstd, weight, batch, channels, height * width, groups, [True] * 3)
        return *found, none, none.clone()
    a, b = _affine(weight, bias, scale, shift)
    if h.is_contiguous():
        rows, beside = batch * channels, (1, batch * channels, height, width)
        statistics = mean.reshape(1, -1), rstd.reshape(1, -1)
        dn = through_silu(dy, pre).view(beside)
        dh, da, db = through_norm(dn, h.view(beside), *statistics, a.reshape(rows), 1, rows, height * width, batch * groups, [True] * 3)
        dh, da, db = dh.view(h.shape), da.view(batch, channels).to(weight.dtype), db.view(batch, channels).to(weight.dtype)
    else:
        dn = through_silu(dy, torch.addcmul(_per_pixel(b, h), pre, _per_pixel(a, h))).to(weight.dtype)
        da, db = (dn * pre).sum((2, 3)), dn.sum((2, 3))
        scaled = (dn * a[:, :, None, None]).to(h.dtype, memory_format=torch.channels_last)
        dh, _, _ = through_norm(scaled, h, mean, rstd, None, batch, channels, height * width, groups, [True, False, False])
    gain = 1 + scale.to(weight.dtype)
    return dh, (da * gain).sum(0), (db * gain).sum(0), (da * weight + db * bias).to(scale.dtype), db.to(scale.dtype)
