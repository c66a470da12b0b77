"""Whether a case is right before it is timed: ours and plain torch in the same dtype, both against the definition in float64."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.peers import Call, plain
from galaxysd import seeds
from galaxysd.kernels.cases import Case, Inputs, Shape

PERIOD = 1_000_003  # numbers drawn for a large map, then repeated: prime, so that no two samples are alike
GOAL = 1.5  # times torch's own error
NOT_A_NUMBER = 1e30  # stands for an error that is none, or infinite: rows are JSON, which has neither


@dataclass(frozen=True)
class Accuracy:
    """Relative errors against float64 by the name of an output or gradient: ours, and torch's in the same dtype."""

    errors: dict[str, tuple[float, float]]
    floor: float  # below which an error is rounding of the result itself

    @property
    def ratio(self) -> float:
        """The largest of our errors over torch's, where it is above the rounding of a result."""
        return max(ours / max(torchs, self.floor) for ours, torchs in self.errors.values())

    @property
    def wrong(self) -> list[str]:
        """What is further from the truth than torch allows itself, in words."""
        bound = {name: max(GOAL * torchs, 2 * self.floor) for name, (_, torchs) in self.errors.items()}
        return [
            f"{name} is off by {ours:.2e}, torch's own by {torchs:.2e}"
            for name, (ours, torchs) in self.errors.items()
            if not ours <= bound[name]
        ]


def normal(name: str, shape: tuple[int, ...], device: torch.device | str = "cpu") -> Tensor:
    """Standard normal numbers for an input, float64, the same on every machine."""
    count = math.prod(shape)
    drawn = seeds.normal(0, f"benchmark-{name}", 0, (min(count, PERIOD),))[0].to(device, torch.float64)
    return drawn.repeat(-(-count // len(drawn)))[:count].view(shape)


def inputs(case: Case, shape: Shape, dtype: torch.dtype, device: torch.device | str, layout: torch.memory_format) -> Inputs:
    """The inputs of a case in the layout a network would hand it."""
    given = case.inputs(shape, dtype, device, functools.partial(normal, device=device))
    return {name: t.contiguous(memory_format=layout) if t.ndim == 4 else t for name, t in given.items()}


def floats(given: Inputs) -> list[str]:
    return [name for name, t in given.items() if t.is_floating_point()]


def joined(outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The same for callees that hand their sources on apart, and for those that hand on one map."""
    return outputs if len(outputs) < 3 else (outputs[0], torch.cat(outputs[1:], 1))


def _differentiated(call: Call, given: Inputs, shape: Shape, cotangents: list[Tensor], dtype: torch.dtype | None = None) -> Inputs:
    """Outputs and gradients by name, in float64."""
    leaves = {name: t.to(dtype or t.dtype).detach().requires_grad_() if t.is_floating_point() else t for name, t in given.items()}
    outputs = joined(call(leaves, shape))
    names = floats(given)
    found = torch.autograd.grad(
        outputs, [leaves[name] for name in names], [c.to(y.dtype) for c, y in zip(cotangents, outputs, strict=True)]
    )
    values = dict(zip(("y", "h"), outputs, strict=False)) | {f"d{name}": t for name, t in zip(names, found, strict=True)}
    return {name: t.detach().double() for name, t in values.items()}


def relative(found: Tensor, wanted: Tensor) -> float:
    error = float((found - wanted).norm() / wanted.norm().clamp_min(1e-30))
    return error if math.isfinite(error) else NOT_A_NUMBER


def accuracy(case: Case, given: Inputs, shape: Shape, ours: Call | None = None) -> Accuracy:
    """Compares a case on these inputs, values and every gradient; `ours` stands in for its own function in tests."""
    dtype = next(iter(given.values())).dtype
    with torch.no_grad():
        outputs = joined(case.reference({name: t.double() if t.is_floating_point() else t for name, t in given.items()}, shape))
    cotangents = [normal(f"cotangent-{k}", tuple(y.shape), y.device).to(dtype) for k, y in enumerate(outputs)]
    truth = _differentiated(case.reference, given, shape, cotangents, torch.float64)
    mine = _differentiated(ours or case.ours, given, shape, cotangents)
    errors = {name: relative(mine[name], wanted) for name, wanted in truth.items()}
    del mine
    peers = _differentiated(plain(case, masked=True), given, shape, cotangents)
    floor = torch.finfo(dtype).eps * (2 if dtype is torch.float32 else 0.5)  # in float32 the sums round, not the result
    return Accuracy({name: (error, relative(peers[name], truth[name])) for name, error in errors.items()}, floor)
