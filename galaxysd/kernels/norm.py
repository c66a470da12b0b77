"""GroupNorm with an adaptive affine, followed by SiLU: y = silu((h - mean) / std * (1 + scale) w + (1 + scale) b + shift).

h is x, or x + residual, or the concatenation of that with a second source, which is never written; mean and std are of one sample's
group of channels. Fused: the addition, the concatenation, the normalisation, the channel affine (w, b), the affine a condition asks
for (scale, shift, one value for each sample and channel), the activation, dropout, and the resampling that follows where a block
changes resolution. Backward recomputes the normalised value from h, mean and rstd instead of keeping it, and takes the gradient of a
skip branch as an addend. The kernels are in `norm_forward` and `norm_backward`, the CPU's operators in `norm_aten`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from galaxysd.kernels.dropout import kept
from galaxysd.kernels.launching import DTYPES, statistics_dtype
from galaxysd.kernels.norm_aten import aten_backward, aten_forward, layout
from galaxysd.kernels.norm_backward import launch_backward
from galaxysd.kernels.norm_forward import launch_forward
from galaxysd.kernels.plain import is_lowered

RESAMPLINGS = ("none", "up", "down")


def reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    eps: float = 1e-5,
    *,
    residual: Tensor | None = None,
    other: Tensor | None = None,
    resample: str = "none",
    dropout: float = 0.0,
    key: Tensor | None = None,
) -> Tensor:
    """The definition, in float32 or better: what every implementation is compared with."""
    wide = torch.promote_types(x.dtype, torch.float32)
    h = x if residual is None else x + residual
    h = (h if other is None else torch.cat((h, other), 1)).to(wide)
    y = F.group_norm(h, groups, weight.to(wide), bias.to(wide), eps)
    if scale is not None and shift is not None:
        y = y * (1 + scale.to(wide)[:, :, None, None]) + shift.to(wide)[:, :, None, None]
    y = F.silu(y)
    if key is not None:
        y = torch.where(kept(key, h.shape, dropout), y / (1 - dropout), 0.0)
    if resample == "up":
        y = y.repeat_interleave(2, 2).repeat_interleave(2, 3)
    elif resample == "down":
        y = 0.25 * (y[:, :, ::2, ::2] + y[:, :, 1::2, ::2] + y[:, :, ::2, 1::2] + y[:, :, 1::2, 1::2])
    return y.to(x.dtype)


@torch.library.triton_op("galaxysd::group_norm_silu", mutates_args={})
def _forward(
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
    """y; x + residual (empty without one); mean and rstd [B, groups]; what a CPU keeps for backward (empty on CUDA)."""
    if x.is_cuda:
        return *launch_forward(x, residual, other, weight, bias, scale, shift, key, groups, eps, resample, dropout), x.new_empty(0)
    return aten_forward(x, residual, other, weight, bias, scale, shift, key, groups, eps, resample, dropout)


@_forward.register_fake
def _(
    x: Tensor, residual: Tensor | None, other: Tensor | None, weight, bias, scale, shift, key, groups: int, eps, resample: str, dropout
) -> tuple[Tensor, ...]:  # fmt: skip
    batch, channels, height, width = x.shape
    channels += 0 if other is None else other.shape[1]
    resampled = {"none": (height, width), "up": (2 * height, 2 * width), "down": (height // 2, width // 2)}[resample]
    y = x.new_empty(batch, channels, *resampled).contiguous(memory_format=layout(x))
    pre = x.new_empty(0) if x.is_cuda else x.new_empty(batch, channels, height, width).contiguous(memory_format=layout(x))
    statistics = x.new_empty(batch, groups, dtype=statistics_dtype(x.dtype))
    return y, x.new_empty(0) if residual is None else torch.empty_like(x), statistics, torch.empty_like(statistics), pre


@torch.library.triton_op("galaxysd::group_norm_silu_backward", mutates_args={})
def _backward(
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
    """dx, dother, dweight, dbias, dscale, dshift; empty for what was not given. `x` is the sum, if there was one."""
    if x.is_cuda:
        return launch_backward(dy, x, other, weight, bias, scale, shift, key, mean, rstd, x_addend, other_addend, groups, resample, dropout)
    return aten_backward(dy, x, other, weight, bias, scale, shift, key, mean, rstd, pre, x_addend, other_addend, groups, resample, dropout)


@_backward.register_fake
def _(
    dy, x: Tensor, other: Tensor | None, weight: Tensor, bias: Tensor, scale: Tensor | None, shift: Tensor | None, key,
    mean, rstd, pre, x_addend, other_addend, groups, resample, dropout,
) -> tuple[Tensor, ...]:  # fmt: skip
    dother, dscale, dshift = (x.new_empty(0) if t is None else torch.empty_like(t) for t in (other, scale, shift))
    return torch.empty_like(x), dother, torch.empty_like(weight), torch.empty_like(bias), dscale, dshift


def _gradients(ctx: Any, dy: Tensor | None, x_addend: Tensor | None, other_addend: Tensor | None) -> tuple[Tensor | None, ...]:
    """The gradients of (x, residual, other, weight, bias, scale, shift) from what forward saved."""
    if dy is None:  # only what was carried was used
        return x_addend, x_addend if ctx.summed else None, other_addend, None, None, None, None
    x, other, weight, bias, scale, shift, key, mean, rstd, pre = ctx.saved_tensors
    dx, dother, dweight, dbias, dscale, dshift = _backward(
        dy, x, other, weight, bias, scale, shift, key, mean, rstd, pre, x_addend, other_addend, ctx.groups, ctx.resample, ctx.dropout
    )
    dresidual = dx if ctx.summed else None
    modulation = (None, None) if scale is None else (dscale, dshift)
    return dx, dresidual, None if other is None else dother, dweight, dbias, *modulation


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, residual, other, weight, bias, scale, shift, key, ctx.groups, _, ctx.resample, ctx.dropout = inputs
    _, total, mean, rstd, pre = output
    ctx.summed = residual is not None
    ctx.save_for_backward(total if ctx.summed else x, other, weight, bias, scale, shift, key, mean, rstd, pre)
    ctx.set_materialize_grads(False)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.mark_non_differentiable(*output[2:], *(() if inputs[1] is not None else output[1:2]))
    _save(ctx, inputs, output)


_forward.register_autograd(lambda ctx, dy, dtotal, *_: (*_gradients(ctx, dy, dtotal, None), *[None] * 5), setup_context=_setup)


class _Carry(torch.autograd.Function):
    """The op, and what it read, passed on: the skip branch's gradients then come back here, as addends of ours."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor, Tensor | None]:
        output = _forward(*inputs)
        _save(ctx, inputs, output)
        x, residual, other = inputs[:3]
        return output[0], x.view_as(x) if residual is None else output[1], None if other is None else other.view_as(other)

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, dx: Tensor | None, dother: Tensor | None = None) -> tuple[Tensor | None, ...]:
        return *_gradients(ctx, dy, dx, dother), *[None] * 5


def group_norm_silu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    eps: float = 1e-5,
    *,
    resample: str = "none",
    dropout: float = 0.0,
    key: Tensor | None = None,
) -> Tensor:
    """Normalises x [B, C, H, W] in groups of channels, applies both affines (scale, shift: [B, C]) and SiLU; keeps x's layout.

    `resample` is "none", "up" (each pixel four times) or "down" (the mean of four), after the activation. `key`, two int64 (seed, step)
    on x's device, turns dropout on at the rate `dropout`.
    """
    _check(x, weight, bias, groups, scale, shift, resample, dropout, key)
    if is_lowered():
        return reference(x, weight, bias, groups, scale, shift, eps, resample=resample, dropout=dropout, key=key)
    # torch's own norm ends the process where weights learn behind a map in NHWC that needs no gradient: frozen layers before trained ones.
    crashes = weight.requires_grad and not x.requires_grad and torch.is_grad_enabled()
    if x.is_cpu and scale is None and resample == "none" and key is None and not crashes and not torch.compiler.is_compiling():
        return F.silu(F.group_norm(x, groups, weight, bias, eps))  # the same operators, without the op's dispatch: a tenth of the time
    y: Tensor = _forward(x, None, None, weight, bias, scale, shift, key, groups, eps, resample, dropout)[0]
    return y


def group_norm_silu_carry(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    eps: float = 1e-5,
    *,
    residual: Tensor | None = None,
    other: Tensor | None = None,
    resample: str = "none",
    dropout: float = 0.0,
    key: Tensor | None = None,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """`group_norm_silu` of cat(x + residual, other), and the maps a skip branch beside it should read.

    On CUDA these are x + residual and, with a second source, `other`: no concatenation is ever written, and what the skip branch sends
    back is added inside the norm's own backward. On a CPU, where that saves nothing, it is the one concatenated map.
    """
    for name, t in (("residual", residual), ("other", other)):
        if t is not None and (t.dtype, t.device) != (x.dtype, x.device):
            raise ValueError(f"group_norm_silu: {name} is {t.dtype} on {t.device} and x {x.dtype} on {x.device}; they must be alike")
    if residual is not None and residual.shape != x.shape:
        raise ValueError(f"group_norm_silu: residual {tuple(residual.shape)} must have x's shape {tuple(x.shape)}")
    if other is not None and (other.ndim != 4 or other.shape[0] != x.shape[0] or other.shape[2:] != x.shape[2:]):
        raise ValueError(f"group_norm_silu: other {tuple(other.shape)} must have x's batch, height and width {tuple(x.shape)}")
    if not x.is_cuda or is_lowered():
        h = x if residual is None else x + residual
        h = h if other is None else torch.cat((h, other), 1)
        return group_norm_silu(h, weight, bias, groups, scale, shift, eps, resample=resample, dropout=dropout, key=key), (h,)
    _check(x, weight, bias, groups, scale, shift, resample, dropout, key, 0 if other is None else other.shape[1])
    y, first, second = _Carry.apply(x, residual, other, weight, bias, scale, shift, key, groups, eps, resample, dropout)
    return y, (first,) if other is None else (first, second)


def _check(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    scale: Tensor | None,
    shift: Tensor | None,
    resample: str,
    dropout: float,
    key: Tensor | None,
    more: int = 0,
) -> None:
    if x.ndim != 4:
        raise ValueError(f"group_norm_silu: x has {x.ndim} dimensions, [B, C, H, W] expected")
    if x.dtype not in DTYPES:
        raise ValueError(f"group_norm_silu: x is {x.dtype}; use bfloat16, float16 or float32")
    channels = x.shape[1] + more
    if groups < 1 or channels % groups:
        raise ValueError(f"group_norm_silu: {channels} channels do not divide into {groups} groups")
    if not channels or not x.shape[2] * x.shape[3]:
        raise ValueError(f"group_norm_silu: x {tuple(x.shape)} has no pixels or channels to normalise over")
    if weight.shape != (channels,) or bias.shape != (channels,):
        raise ValueError(f"group_norm_silu: weight {tuple(weight.shape)} and bias {tuple(bias.shape)} must both be ({channels},)")
    if (scale is None) != (shift is None):
        raise ValueError("group_norm_silu: scale and shift come together or not at all")
    wanted = (x.shape[0], channels)
    if scale is not None and shift is not None and not scale.shape == shift.shape == wanted:
        raise ValueError(f"group_norm_silu: scale {tuple(scale.shape)} and shift {tuple(shift.shape)} must be {wanted}")
    for name, t in (("weight", weight), ("bias", bias), ("scale", scale), ("shift", shift), ("key", key)):
        if t is not None and t.device != x.device:
            raise ValueError(f"group_norm_silu: {name} is on {t.device} and x on {x.device}; move one of them")
    if resample not in RESAMPLINGS:
        raise ValueError(f"group_norm_silu: resample is {resample!r}; use one of {', '.join(RESAMPLINGS)}")
    if resample == "down" and (x.shape[2] % 2 or x.shape[3] % 2):
        raise ValueError(f"group_norm_silu: a map of {x.shape[2]}x{x.shape[3]} pixels cannot be halved; its sides must be even")
    if not 0 <= dropout < 1:
        raise ValueError(f"group_norm_silu: dropout is {dropout}; it must be at least 0 and below 1")
    if (key is None) != (dropout == 0):
        raise ValueError(
            f"group_norm_silu: dropout is {dropout} and key {'missing' if key is None else 'given'}; dropout needs both, none needs neither"
        )
    if key is not None and (key.shape != (2,) or key.dtype is not torch.int64):
        raise ValueError(f"group_norm_silu: key is {key.dtype} {tuple(key.shape)}; two int64 (seed, step) are needed")
