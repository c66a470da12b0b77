"""Every fused operation as a row: how it is called, its definition, its launchers, the bytes it cannot avoid.

Tests, the compile gate and the benchmarks follow from these rows. A case knows no preset: shapes come from outside, and so do the
numbers its inputs are drawn from (`normal(name, shape)` gives float64 on the CPU).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from galaxysd.kernels import attend, norm
from galaxysd.kernels.norm_backward import launch_backward
from galaxysd.kernels.norm_forward import launch_forward

Inputs = dict[str, Tensor]
Normal = Callable[[str, tuple[int, ...]], Tensor]


@dataclass(frozen=True)
class Shape:
    """The sizes of one call. `parts` are the groups of a norm, or the heads of an attention; `second` the channels of a second source."""

    batch: int
    height: int
    width: int
    channels: int
    parts: int
    second: int = 0

    @property
    def elements(self) -> int:
        """Values of the map that is read (both sources), or written by an attention."""
        return self.batch * self.height * self.width * (self.channels + self.second)

    def __str__(self) -> str:
        sources = f"{self.channels}+{self.second}" if self.second else f"{self.channels}"
        return f"{self.batch}x{self.height}x{self.width}x{sources}/{self.parts}"


@dataclass(frozen=True)
class Case:
    """One operation in one of its forms. All calls take `Inputs`; a form that passes its sum on gives (y, sum)."""

    name: str
    op: str  # torch.ops.galaxysd.<op>
    sources: tuple[str, ...]  # the files of galaxysd/kernels it is made of
    inputs: Callable[[Shape, torch.dtype, torch.device | str, Normal], Inputs]  # Inputs that floats: all take gradients
    ours: Callable[[Inputs, Shape], tuple[Tensor, ...]]  # the public function
    reference: Callable[[Inputs, Shape], tuple[Tensor, ...]]  # the definition
    # The launchers themselves: outputs, and with cotangents (one for each output) every gradient by its input's name.
    launched: Callable[[Inputs, Shape, tuple[Tensor, ...] | None], tuple[tuple[Tensor, ...], Inputs]]
    streams: tuple[float, float]  # maps of `Shape.elements` that forward and backward must read or write, dense NHWC

    def bytes(self, shape: Shape, dtype: torch.dtype, backward: bool = False) -> float:
        """What no implementation can avoid to move."""
        return self.streams[backward] * shape.elements * dtype.itemsize


@dataclass(frozen=True)
class _Form:
    """Which parts of GroupNorm-SiLU a case uses."""

    adaptive: bool = False
    residual: bool = False
    other: bool = False
    resample: str = "none"
    dropout: float = 0.0

    @property
    def carries(self) -> bool:
        return self.residual or self.other

    def inputs(self, shape: Shape, dtype: torch.dtype, device: torch.device | str, normal: Normal) -> Inputs:
        def feature_map(name: str, channels: int) -> Tensor:
            drawn = normal(name, (shape.batch, channels, shape.height, shape.width)) * 1.5 + 0.5
            return drawn.to(device, dtype).contiguous(memory_format=torch.channels_last)

        channels, wide = shape.channels + shape.second, torch.promote_types(dtype, torch.float32)
        found = {"x": feature_map("x", shape.channels)}
        if self.residual:
            found["residual"] = feature_map("residual", shape.channels)
        if self.other:
            found["other"] = feature_map("other", shape.second)
        found |= {name: normal(name, (channels,)).to(device, wide) for name in ("weight", "bias")}
        if self.adaptive:  # rows of one wide product, as the network has them
            both = normal("modulation", (shape.batch, 2 * channels)).to(device, dtype)
            found["scale"], found["shift"] = both.chunk(2, 1)
        if self.dropout:
            found["key"] = torch.tensor([11, 5], device=device)
        return found

    def _call(self, function: Callable[..., Any], given: Inputs, shape: Shape, *named: str) -> Any:
        keywords = {name: given[name] for name in (*named, "key") if name in given}
        affines = (given["weight"], given["bias"], shape.parts, given.get("scale"), given.get("shift"))
        return function(given["x"], *affines, resample=self.resample, dropout=self.dropout, **keywords)

    def ours(self, given: Inputs, shape: Shape) -> tuple[Tensor, ...]:
        if not self.carries:
            return (self._call(norm.group_norm_silu, given, shape),)
        y, sources = self._call(norm.group_norm_silu_carry, given, shape, "residual", "other")
        return y, *sources

    def reference(self, given: Inputs, shape: Shape) -> tuple[Tensor, ...]:
        y: Tensor = self._call(norm.reference, given, shape, "residual", "other")
        first = given["x"] + given["residual"] if self.residual else given["x"]
        return (y, *((first,) if self.carries else ()), *((given["other"],) if self.other else ()))

    def launched(self, given: Inputs, shape: Shape, cotangents: tuple[Tensor, ...] | None) -> tuple[tuple[Tensor, ...], Inputs]:
        part = given.get
        affines = (given["weight"], given["bias"], part("scale"), part("shift"), part("key"))
        y, total, mean, rstd = launch_forward(
            given["x"], part("residual"), part("other"), *affines, shape.parts, 1e-5, self.resample, self.dropout
        )
        x = total if self.residual else given["x"]
        outputs = (y, *((x,) if self.carries else ()), *((given["other"],) if self.other else ()))
        if cotangents is None:
            return outputs, {}
        dx, dother = (*cotangents[1:], None, None)[:2]
        found = launch_backward(
            cotangents[0], x, part("other"), *affines, mean, rstd, dx, dother, shape.parts, self.resample, self.dropout
        )  # fmt: skip
        gradients = dict(zip(("x", "other", "weight", "bias", "scale", "shift"), found, strict=True))
        if self.residual:
            gradients["residual"] = gradients["x"]
        return outputs, {name: gradients[name] for name in given if name != "key"}


def _norm(name: str, streams: tuple[float, float], **form: Any) -> Case:
    chosen = _Form(**form)
    files = ("norm.py", "norm_aten.py", "norm_tiles.py", "norm_forward.py", "norm_backward.py", "dropout.py", "launching.py")
    return Case(
        name, "group_norm_silu", (*files, "launches/norm.json"), chosen.inputs, chosen.ours, chosen.reference, chosen.launched, streams
    )


def _attention(name: str, norm: bool = False) -> Case:
    files = ("attend.py", "attend_aten.py", "attend_short.py", "attend_tiled.py", "launching.py", "launches/attend.json")

    def inputs(shape: Shape, dtype: torch.dtype, device: torch.device | str, normal: Normal) -> Inputs:
        drawn = normal("qkv", (shape.batch, 3 * shape.channels, shape.height, shape.width))
        found = {"qkv": drawn.to(device, dtype).contiguous(memory_format=torch.channels_last)}
        if norm:
            gain = 1 + 0.3 * normal("qk_gain", (shape.channels // shape.parts,))
            found["qk_gain"] = gain.to(device, torch.promote_types(dtype, torch.float32))
        return found

    def launched(given: Inputs, shape: Shape, cotangents: tuple[Tensor, ...] | None) -> tuple[tuple[Tensor, ...], Inputs]:
        qkv, gain = given["qkv"], given.get("qk_gain")
        out, total = attend.launch_forward(qkv, shape.parts, gain)
        if cotangents is None:
            return (out,), {}
        found = attend.launch_backward(cotangents[0], qkv, out, total, shape.parts, gain)
        return (out,), {key: found[k] for k, key in enumerate(given)}

    return Case(
        name,
        "attention",
        files,
        inputs,
        lambda given, shape: (attend.attention(given["qkv"], shape.parts, given.get("qk_gain")),),
        lambda given, shape: (attend.reference(given["qkv"], shape.parts, given.get("qk_gain")),),
        launched,
        (4, 8),
    )


CASES = {
    case.name: case
    for case in (
        _norm("norm", (2, 3)),
        _norm("norm-adaptive", (2, 3), adaptive=True),
        _norm("norm-add", (4, 4), residual=True),
        _norm("norm-cat", (2, 4), other=True),
        _norm("norm-add-cat", (3, 4), residual=True, other=True),
        _norm("norm-up", (5, 6), adaptive=True, resample="up"),
        _norm("norm-down", (1.25, 2.25), adaptive=True, resample="down"),
        _norm("norm-dropout", (2, 3), adaptive=True, dropout=0.1),
        _attention("attention"),
        _attention("attention-norm", norm=True),
    )
}
