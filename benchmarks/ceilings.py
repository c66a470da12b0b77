"""What a card itself can do: copy, matrix product, and the convolutions of a preset. Everything else is measured against these."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator

import torch

from benchmarks import census, rows, timing
from benchmarks.census import Convolution
from benchmarks.rows import Row

COPIED = {"cuda": 1 << 29, "cpu": 1 << 27}  # bytes of the map that is copied: far past any cache
SIDE = {"cuda": 8192, "cpu": 1024}  # of the matrices that are multiplied
ROUNDS = 9
Made = tuple[str, str, Callable[[], float]]  # name, unit, measurement


def _rate(work: float, call: timing.Run, calls: int = 4) -> float:
    """Units of work a second, by the median of replays."""
    replay = timing.Replay([call] * calls)
    return work / statistics.median(replay.seconds() for _ in range(ROUNDS))


def copied(device: str) -> tuple[float, timing.Run]:
    """Bytes that a copy reads and writes, and the copy."""
    source = torch.zeros(COPIED[device] // 2, dtype=torch.bfloat16, device=device)
    target = torch.empty_like(source)
    return 2 * COPIED[device], lambda: target.copy_(source)


def product(dtype: torch.dtype, device: str) -> tuple[float, timing.Run]:
    """Operations of a product of square matrices, and the product."""
    side = SIDE[device]
    a, b = (torch.full((side, side), value, dtype=dtype, device=device) for value in (0.5, 0.25))
    out = torch.empty_like(a)
    return 2 * side**3, lambda: torch.mm(a, b, out=out)


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
    made: list[Made] = [
        ("copy", "GB/s", lambda: _rate(*copied("cuda")) / 1e9),
        ("matmul", "TFLOP/s", lambda: _rate(*product(torch.bfloat16, "cuda")) / 1e12),
    ]
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
