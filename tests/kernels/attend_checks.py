"""How attention is judged: a pair of launchers, in the interpreter or on a card, against the float64 definition.

The checks take the launchers, so that mutated copies of the kernels can be put through them, where they must fail.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from galaxysd.kernels.attend import reference
from galaxysd.kernels.attend_aten import aten_backward, aten_forward, wide
from galaxysd.kernels.launching import recorded
from tests.kernels.checks import DEVICE, Poisoned, normal

# Largest relative error in norm of the output or any gradient; `total` is held to that of float32.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.float16: 1.5e-3, torch.bfloat16: 1e-2}

# Below this an error is not compared with torch's: a quarter of an ulp, and two of the float32 statistics.
FLOOR = {dtype: 0.25 * torch.finfo(dtype).eps + 2 * torch.finfo(torch.float32).eps for dtype in TOLERANCE}

Forward = Callable[[Tensor, int, Tensor | None], tuple[Tensor, Tensor]]
Backward = Callable[[Tensor, Tensor, Tensor, Tensor, int, Tensor | None], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Shape:
    batch: int
    heads: int
    d: int
    height: int
    width: int
    norm: bool = False

    def __str__(self) -> str:
        return f"{self.batch}x{self.heads}x{self.d}x{self.height}x{self.width}" + ("-norm" if self.norm else "")


def inputs(shape: Shape, dtype: torch.dtype, device: str = DEVICE) -> tuple[Tensor, Tensor, Tensor | None]:
    """qkv, a gradient of the output and a gain away from one, drawn in float64."""
    draw = normal(0)
    pixels = shape.height, shape.width
    qkv = draw("qkv", (shape.batch, 3 * shape.heads * shape.d, *pixels)).to(device, dtype, memory_format=torch.channels_last)
    dout = draw("dout", (shape.batch, shape.heads * shape.d, *pixels)).to(device, dtype, memory_format=torch.channels_last)
    gain = (1 + 0.4 * draw("gain", (shape.d,))).to(device, wide(dtype)) if shape.norm else None
    return qkv, dout, gain


def truth(qkv: Tensor, dout: Tensor, heads: int, gain: Tensor | None) -> dict[str, Tensor]:
    """The definition in float64: output, the gradient of each third of qkv, of the gain."""
    leaf, scale = qkv.detach().double().requires_grad_(), None if gain is None else gain.double().requires_grad_()
    out = reference(leaf, heads, scale)
    out.backward(dout.double())
    return named(out.detach(), leaf.grad, None if scale is None else scale.grad)


def named(out: Tensor, dqkv: Tensor | None, dgain: Tensor | None) -> dict[str, Tensor]:
    assert dqkv is not None
    found = {"out": out, **dict(zip(("dq", "dk", "dv"), dqkv.chunk(3, 1), strict=True))}
    return found if dgain is None else {**found, "dgain": dgain}


def errors(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, float]:
    """Relative errors in norm. A gradient that all but vanishes, as every dq does with one pixel, is measured against dv."""
    least = 0.5 * float(wanted["dv"].norm()) if "dv" in wanted else 0.0
    return {
        name: float((found[name].double() - want).norm()) / max(float(want.norm()), least, torch.finfo(torch.float64).tiny)
        for name, want in wanted.items()
    }


def launched(forward: Forward, backward: Backward, qkv: Tensor, dout: Tensor, heads: int, gain: Tensor | None) -> dict[str, Tensor]:
    """What a pair of launchers gives, with all memory they ask for poisoned."""
    with Poisoned():
        out, total = forward(qkv, heads, gain)
        dqkv, dgain = backward(dout, qkv, out, total, heads, gain)
    assert qkv.shape[0] == 0 or all(each.is_contiguous(memory_format=torch.channels_last) for each in (out, dqkv))
    assert total.shape == (qkv.shape[0], heads, qkv.shape[2] * qkv.shape[3])
    return named(out, dqkv, dgain if gain is not None else None)


def judge(found: dict[str, Tensor], qkv: Tensor, dout: Tensor, heads: int, gain: Tensor | None, tolerance: float = math.inf) -> None:
    """Fails where a value is further than the tolerance from float64, or 1.5 times as far as torch's own calls in the same dtype."""
    wanted = truth(qkv, dout, heads, gain)
    out, total = aten_forward(qkv, heads, gain)
    dqkv, dgain = aten_backward(dout, qkv, out, total, heads, gain)
    theirs = errors(named(out, dqkv, None if gain is None else dgain), wanted)
    for name, error in errors(found, wanted).items():
        vanishing = wanted[name].norm() < 1e-6 * wanted["dv"].norm()  # all of it is rounding, theirs as well: not compared
        allowed = tolerance if vanishing else min(tolerance, 1.5 * theirs[name] + FLOOR[qkv.dtype])
        assert error <= allowed, f"{list(qkv.shape)} {qkv.dtype}: {name} is off by {error:.2e} of its norm, {allowed:.2e} allowed"


def check_attention(forward: Forward, backward: Backward, shape: Shape, dtype: torch.dtype) -> None:
    """Right for drawn values: the output and every gradient."""
    qkv, dout, gain = inputs(shape, dtype)
    judge(launched(forward, backward, qkv, dout, shape.heads, gain), qkv, dout, shape.heads, gain, TOLERANCE[dtype])


def check_large_scores(forward: Forward, backward: Backward, shape: Shape, dtype: torch.dtype) -> None:
    """Right for scores of -36 sqrt(D), while keys past the last would score 0: exp of the difference overflows where they count."""
    qkv, dout, _ = inputs(shape, dtype)
    third = shape.heads * shape.d
    qkv = qkv * 0.1
    qkv[:, :third] += 6
    qkv[:, third : 2 * third] -= 6
    judge(launched(forward, backward, qkv, dout, shape.heads, None), qkv, dout, shape.heads, None)


def check_small_vectors(forward: Forward, backward: Backward, shape: Shape, dtype: torch.dtype) -> None:
    """Right for vectors so small that the epsilon of their norm counts, and for one that is zero."""
    qkv, dout, gain = inputs(shape, dtype)
    qkv *= 1e-3
    qkv[:, :, 0, 0] = 0
    judge(launched(forward, backward, qkv, dout, shape.heads, gain), qkv, dout, shape.heads, gain)


def check_strides(forward: Forward, backward: Backward, shape: Shape, dtype: torch.dtype) -> None:
    """A gradient handed on by cat's backward, a part of a larger map, gives what its dense copy gives."""
    qkv, dout, gain = inputs(shape, dtype)
    parts = [torch.zeros_like(dout).requires_grad_(), torch.zeros_like(dout).requires_grad_()]
    handed: list[Tensor] = []
    parts[1].register_hook(handed.append)
    torch.cat(parts, 1).backward(torch.cat([-dout, dout], 1))
    assert not handed[0].is_contiguous(memory_format=torch.channels_last), "cat's backward no longer hands on strided parts"
    out, total = forward(qkv, shape.heads, gain)
    for given in (handed[0], dout.contiguous(), dout[:1, :1, :1, :1].expand(dout.shape)):
        found = backward(given, qkv, out, total, shape.heads, gain)[0]
        wanted = backward(given.contiguous(memory_format=torch.channels_last), qkv, out, total, shape.heads, gain)[0]
        assert torch.equal(found, wanted), f"{shape}: gradients of strides {given.stride()} were read as if they were dense"


def check_repeats(forward: Forward, backward: Backward, shape: Shape, dtype: torch.dtype, times: int = 2) -> None:
    """The same bits every time."""
    qkv, dout, gain = inputs(shape, dtype)
    first = launched(forward, backward, qkv, dout, shape.heads, gain)
    for _ in range(times - 1):
        again = launched(forward, backward, qkv, dout, shape.heads, gain)
        assert all(torch.equal(first[name], again[name]) for name in first)


def check_derivative(forward: Forward, backward: Backward, shape: Shape) -> None:
    """Backward is the derivative of forward, in float64 (in the interpreter alone)."""

    class Launched(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, qkv: Tensor, gain: Tensor | None) -> Tensor:
            out, total = forward(qkv, shape.heads, gain)
            ctx.save_for_backward(qkv, out, total, gain)
            return out

        @staticmethod
        def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, Tensor | None]:
            qkv, out, total, gain = ctx.saved_tensors
            dqkv, dgain = backward(dout, qkv, out, total, shape.heads, gain)
            return dqkv, dgain if gain is not None else None

    qkv, _, gain = inputs(shape, torch.float64, "cpu")
    assert torch.autograd.gradcheck(Launched.apply, (qkv.requires_grad_(), None if gain is None else gain.requires_grad_()), fast_mode=True)


def kernels(forward: Forward, backward: Backward, shape: Shape, dtype: torch.dtype, capability: int = 90) -> list[str]:
    """The files and kernels a shape takes on a card of `capability`."""
    qkv, dout, gain = inputs(shape, dtype, "meta")
    with recorded(capability) as launches:
        out, total = forward(qkv, shape.heads, gain)
        backward(dout, qkv, out, total, shape.heads, gain)
    return [f"{each.kernel.fn.__module__.rpartition('.')[2]}.{each.kernel.fn.__name__}" for each in launches]
