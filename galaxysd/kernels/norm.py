"""GroupNorm with an adaptive affine, followed by SiLU: y = silu((x - mean) / std * (1 + scale) w + (1 + scale) b + shift).

mean and std are of one sample's group of channels. Fused: the normalisation, the channel affine (w, b), the affine a condition asks
for (scale, shift, one value for each sample and channel) and the activation. Forward reads x once and writes y once where plain
modules make three such passes; backward recomputes the normalised value from x, mean and rstd instead of keeping it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from galaxysd.kernels.plain import is_lowered


def reference(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, scale: Tensor | None = None, shift: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """The definition, in float32 or better: what every implementation is compared with."""
    wide = torch.promote_types(x.dtype, torch.float32)
    y = F.group_norm(x.to(wide), groups, weight.to(wide), bias.to(wide), eps)
    if scale is not None and shift is not None:
        y = y * (1 + scale.to(wide)[:, :, None, None]) + shift.to(wide)[:, :, None, None]
    return F.silu(y).to(x.dtype)


def _affine(x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor | None, shift: Tensor | None) -> tuple[Tensor, Tensor]:
    """The two affines as one: multiplier and offset of the normalised value, [B, C]."""
    batch = x.shape[0]
    if scale is None or shift is None:
        return weight.expand(batch, -1), bias.expand(batch, -1)
    gain = 1 + scale.to(weight.dtype)
    return weight * gain, torch.addcmul(shift.to(weight.dtype), bias, gain)


@torch.library.custom_op("galaxysd::group_norm_silu", mutates_args=())
def _forward(
    x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor | None, shift: Tensor | None, groups: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    batch, channels, height, width = x.shape
    a, b = _affine(x, weight, bias, scale, shift)
    if x.is_contiguous():
        # Samples side by side as one sample of B * C channels: the library's channel affine is then ours of each sample.
        rows = batch * channels
        n, mean, rstd = torch.native_group_norm(x, a.reshape(rows), b.reshape(rows), 1, rows, height * width, batch * groups, eps)
        n = n.view_as(x)
    else:
        n, mean, rstd = torch.native_group_norm(x, None, None, batch, channels, height * width, groups, eps)
        n = torch.addcmul(b.to(x.dtype)[:, :, None, None], n, a.to(x.dtype)[:, :, None, None])
    return F.silu(n, inplace=True), mean.view(batch, groups), rstd.view(batch, groups)


@_forward.register_fake
def _(
    x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor | None, shift: Tensor | None, groups: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    statistics = x.new_empty(x.shape[0], groups, dtype=weight.dtype)
    return torch.empty_like(x), statistics, torch.empty_like(statistics)


@torch.library.custom_op("galaxysd::group_norm_silu_backward", mutates_args=())
def _backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    groups: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    batch, channels, height, width = x.shape
    per_group = channels // groups
    a, b = _affine(x, weight, bias, scale, shift)
    spread_mean, spread_rstd = (s.repeat_interleave(per_group, 1) for s in (mean, rstd))  # [B, C]
    slope = a * spread_rstd
    n = torch.addcmul((b - spread_mean * slope).to(x.dtype)[:, :, None, None], x, slope.to(x.dtype)[:, :, None, None])
    dn = torch.ops.aten.silu_backward(dy, n)
    if x.is_contiguous():
        rows = batch * channels
        dx, da, db = torch.ops.aten.native_group_norm_backward(
            dn.contiguous(),
            x,
            mean.reshape(1, -1),
            rstd.reshape(1, -1),
            a.reshape(rows),
            1,
            rows,
            height * width,
            batch * groups,
            [True, True, True],
        )
        dx, da, db = dx.view_as(x), da.view(batch, channels).to(weight.dtype), db.view(batch, channels).to(weight.dtype)
    else:
        hat = (x.to(weight.dtype) - spread_mean[:, :, None, None]) * spread_rstd[:, :, None, None]
        wide = dn.to(weight.dtype)
        da, db = (wide * hat).sum((2, 3)), wide.sum((2, 3))
        dx, _, _ = torch.ops.aten.native_group_norm_backward(
            (wide * a[:, :, None, None]).to(x.dtype, memory_format=torch.channels_last),
            x,
            mean,
            rstd,
            None,
            batch,
            channels,
            height * width,
            groups,
            [True, False, False],
        )
    if scale is None:
        return dx, da.sum(0), db.sum(0), weight.new_empty(0), weight.new_empty(0)
    gain = 1 + scale.to(weight.dtype)
    return dx, (da * gain).sum(0), (db * gain).sum(0), (da * weight + db * bias).to(scale.dtype), db.to(scale.dtype)


@_backward.register_fake
def _(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    groups: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    none = weight.new_empty(0)
    return (
        torch.empty_like(x),
        torch.empty_like(weight),
        torch.empty_like(bias),
        none if scale is None else torch.empty_like(scale),
        torch.empty_like(none) if shift is None else torch.empty_like(shift),
    )


def _setup(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: tuple) -> None:  # type: ignore[type-arg]
    x, weight, bias, scale, shift, groups, _ = inputs
    _, mean, rstd = output
    ctx.mark_non_differentiable(mean, rstd)
    ctx.save_for_backward(x, weight, bias, scale, shift, mean, rstd)
    ctx.groups = groups  # type: ignore[attr-defined]


def _gradients(ctx, dy: Tensor, *_: object) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
    x, weight, bias, scale, shift, mean, rstd = ctx.saved_tensors
    dx, dw, db, dscale, dshift = _backward(dy, x, weight, bias, scale, shift, mean, rstd, ctx.groups)
    return dx, dw, db, None if scale is None else dscale, None if shift is None else dshift, None, None


_forward.register_autograd(_gradients, setup_context=_setup)


def group_norm_silu(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, scale: Tensor | None = None, shift: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """Normalises x [B, C, H, W] in groups of channels, applies both affines (scale, shift: [B, C]) and SiLU; gives x's shape and layout."""
    if x.ndim != 4:
        raise ValueError(f"group_norm_silu: x has {x.ndim} dimensions, [B, C, H, W] expected")
    channels = x.shape[1]
    if groups < 1 or channels % groups:
        raise ValueError(f"group_norm_silu: {channels} channels do not divide into {groups} groups")
    if weight.shape != (channels,) or bias.shape != (channels,):
        raise ValueError(f"group_norm_silu: weight {tuple(weight.shape)} and bias {tuple(bias.shape)} must both be ({channels},)")
    if (scale is None) != (shift is None):
        raise ValueError("group_norm_silu: scale and shift come together or not at all")
    if scale is not None and shift is not None and not scale.shape == shift.shape == x.shape[:2]:
        raise ValueError(f"group_norm_silu: scale {tuple(scale.shape)} and shift {tuple(shift.shape)} must be {tuple(x.shape[:2])}")
    if is_lowered():
        return reference(x, weight, bias, groups, scale, shift, eps)
    return _forward(x, weight, bias, scale, shift, groups, eps)[0]
