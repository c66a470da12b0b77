"""What a card itself can do: copy, matrix product, and the convolutions of a preset. Everything else is measured against these."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator

import torch

from benchmarks import census, rows, timing
from benchmarks.census import Convolution
from benchmarks.rows import Row

COPIED = 1 << 29  # bytes of the map that is copied: far past any L2
SIDE = 8192  # of the matrices that are multiplied
ROUNDS = 9
Made = tuple[str, str, Callable[[], float]]  # name, unit, measurement


def _rate(work: float, call: timing.Run, calls: int = 4) -> float:
    """Units of work a second, by the median of replays."""
    replay = timing.Replay([call] * calls)
    return work / statistics.median(replay.seconds() for _ in range(ROUNDS))


def copy() -> float:
    source = torch.zeros(COPIED // 2, dtype=torch.bfloat16, device="cuda")
    target = torch.empty_like(source)
    return _rate(2 * COPIED, lambda: target.copy_(source)) / 1e9


def matmul() -> float:
    a, b = (torch.full((SIDE, SIDE), value, dtype=torch.bfloat16, device="cuda") for value in (0.5, 0.25))
    out = torch.empty_like(a)
    return _rate(2 * SIDE**3, lambda: torch.mm(a, b, out=out)) / 1e12


def convolution(each: Convolution, which: str) -> float:
    """TFLOP/s of one of "forward", "dgrad", "wgrad" of a convolution in bf16, NHWC."""
    nhwc = {"dtype": torch.bfloat16, "device": "cuda", "memory_format": torch.channels_last}
    x = torch.empty(each.batch, each.inputs, each.height, each.width, **nhwc).fill_(0.5)
    weight = torch.empty(each.outputs, each.inputs, each.kernel, each.kernel, **nhwc).fill_(0.25)
    settings = ([each.stride] * 2, [each.kernel // 2] * 2, [1, 1], False, [0, 0], 1)
    y = torch.ops.aten.convolution(x, weight, None, *settings)
    if which == "forward":
        return _rate(each.flops, lambda: torch.ops.aten.convolution(x, weight, None, *settings)) / 1e12
    dy, mask = torch.ones_like(y), [which == "dgrad", which == "wgrad", False]
    return _rate(each.flops, lambda: torch.ops.aten.convolution_backward(dy, x, weight, None, *settings, mask)) / 1e12


def ceilings(preset: str) -> list[Made]:
    """What is to be measured for a preset, by name."""
    made: list[Made] = [("copy", "GB/s", copy), ("matmul", "TFLOP/s", matmul)]
    for each in census.convolutions(preset):
        for which in ("forward", "dgrad", "wgrad"):
            made.append((f"conv {each} {which}", "TFLOP/s", lambda each=each, which=which: convolution(each, which)))  # type: ignore[misc]
    return made


def measured(preset: str, known: set[str]) -> Iterator[Row]:
    """Rows of the ceilings that are not known yet."""
    for name, unit, measure in ceilings(preset):
        if name not in known:
            yield {"kind": "ceiling", **rows.provenance(), "preset": preset, "name": name, "value": measure(), "unit": unit}
            torch.cuda.empty_cache()
