"""How a fused operation is judged: its launchers, in the interpreter or on a card, against the float64 definition.

Outputs are poisoned before every launch, so that a place nobody wrote cannot pass for a result. The same checks are run on mutated
kernels by `tests/test_mutations.py`, where they must fail.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._library.triton import set_wrap_triton_enabled
from torch.utils._python_dispatch import TorchDispatchMode

from galaxysd.kernels.cases import Case, Shape

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Largest relative error in norm of any output or gradient. The interpreter cuts where a card rounds, so bf16 has a bit to spare.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 3e-6, torch.float16: 1.5e-3, torch.bfloat16: 1e-2}
SMALL_GROUP, FEW = 16, 20  # a group of fewer values divides by its own small spread: that many times the tolerance

aten = torch.ops.aten
ALLOCATIONS = {aten.empty.memory_format, aten.empty_like.default, aten.new_empty.default, aten.empty_strided.default}


class Poisoned(TorchDispatchMode):
    """Within it, memory that is asked for comes full of NaN."""

    def __enter__(self) -> Any:
        # Launched bare, as torch launches the kernels of an eager op: wrapped ones know no rule for a mode of ours.
        self.bare = set_wrap_triton_enabled(False)
        self.bare.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.bare.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in ALLOCATIONS and out.is_floating_point() and out.device.type != "meta":
            out.fill_(float("nan"))
        return out


def normal(seed: int):
    """Draws for `Case.inputs`: float64 of a shape, by name."""

    def draw(name: str, shape: tuple[int, ...]) -> Tensor:
        generator = torch.Generator().manual_seed(seed * 1000003 + sum(map(ord, name)))
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return draw


def relative(found: Tensor, wanted: Tensor, floor: float = 0.0) -> float:
    """The error in norm, relative to the wanted one or to `floor`, whichever is larger; absolute where nothing is wanted."""
    found, wanted = found.detach().double().cpu(), wanted.detach().double().cpu()
    scale = max(float(wanted.norm()), floor)
    return float((found - wanted).norm() / (scale if scale > 0 else 1.0))


def truth(
    case: Case, given: dict[str, Tensor], shape: Shape, cotangents: tuple[Tensor, ...]
) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """The definition's outputs and gradients in float64; the sum of a residual is rounded first, since it is a map of the network."""
    wide = {name: t.double() if t.is_floating_point() else t for name, t in given.items()}
    if "residual" in given:
        wide["x"], wide["residual"] = (given["x"] + given["residual"]).double(), torch.zeros_like(wide["x"])
    leaves = {name: t.detach().requires_grad_(t.is_floating_point()) for name, t in wide.items()}
    outputs = case.reference(leaves, shape)
    torch.autograd.backward(outputs, [t.double() for t in cotangents])
    return outputs, {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}


def cotangents_of(outputs: tuple[Tensor, ...], seed: int = 1) -> tuple[Tensor, ...]:
    """One drawn gradient for each output, in its own type and layout."""
    return tuple(torch.empty_like(t).copy_(normal(seed)(f"cotangent{k}", tuple(t.shape))) for k, t in enumerate(outputs))


def errors(case: Case, shape: Shape, dtype: torch.dtype, given: dict[str, Tensor] | None = None, seed: int = 0) -> dict[str, float]:
    """The relative error of every output and every gradient of the launchers."""
    given = given or case.inputs(shape, dtype, DEVICE, normal(seed))
    with Poisoned():
        cotangents = cotangents_of(case.launched(given, shape, None)[0])
        outputs, gradients = case.launched(given, shape, cotangents)
    wanted, slopes = truth(case, given, shape, cotangents)
    found = {f"output {k}": relative(a, b) for k, (a, b) in enumerate(zip(outputs, wanted, strict=True))}
    # A gradient of few values is a sum over the map whose terms may cancel: it is known to a share of what was summed, not of what is left.
    summed = 0.1 * float(cotangents[0].double().norm())
    floors = {name: 0.0 if slope.ndim == 4 else summed for name, slope in slopes.items()}
    return found | {f"gradient of {name}": relative(gradients[name], slopes[name], floors[name]) for name in slopes}


def check(case: Case, shape: Shape, dtype: torch.dtype, given: dict[str, Tensor] | None = None, loose: float = 1.0) -> None:
    """Fails with the worst error of the launchers where it is above the tolerance."""
    if case.op == "group_norm_silu" and shape.height * shape.width * (shape.channels + shape.second) // shape.parts < SMALL_GROUP:
        loose *= FEW
    for name, error in errors(case, shape, dtype, given).items():
        assert error <= TOLERANCE[dtype] * loose, f"{case.name} {shape} {dtype}: {name} is off by {error:.2e} of its norm"
