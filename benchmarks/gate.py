"""The compile gate: every row of the launch tables compiled for its own card, on any machine, and what is wrong with what came out.

What is compiled follows from the cases: each of their launchers, forward and backward, called on tensors without data at one shape for
each shape class, lists what it would launch. A row that nothing uses, and a launch without a row, are faults as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from benchmarks import aot
from benchmarks.aot import Compiled
from galaxysd.kernels import attend, launching
from galaxysd.kernels.cases import CASES, Case, Inputs, Shape
from galaxysd.kernels.launching import Launch

MAPS = (8, 16, 32, 64)  # sides: one for each class of one-pass norms, and one that takes two passes
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
# These read a few statistics or sums for each group or channel, strided: there is no row of 16 bytes to be read at once.
NARROW = {"_merge", "_gather", "_over_batch"}

# Triton compiles an argument of 1 as a constant, which the interpreter does not show: one pixel, one group, one channel, one head.
EDGES = (
    ("norm-add-cat", Shape(1, 1, 1, 1, 1, 15)),
    ("norm-adaptive", Shape(1, 1, 1, 200, 1)),
    ("norm-down", Shape(1, 2, 2, 1, 1)),
    ("norm-dropout", Shape(1, 1, 1, 16, 1)),
    ("attention-norm", Shape(1, 1, 1, 64, 1)),
    ("attention", Shape(1, 17, 17, 64, 1)),
)


@dataclass(frozen=True)
class Form:
    """A launch, and the case and direction it belongs to."""

    launch: Launch
    case: str

    @property
    def kernel(self) -> str:
        return self.launch.kernel.fn.__name__

    @property
    def weight(self) -> int:
        """How much of its kernel the launch uses: branches taken, dropout's generator before all."""
        constants = self.launch.constants
        return sum(value is True for value in constants.values()) + 8 * bool(constants.get("DROPOUT")) + constants.get("MODE", 0)


@dataclass(frozen=True)
class Result:
    """What became of a form."""

    case: str
    compiled: Compiled

    @property
    def name(self) -> str:
        row = self.compiled.row
        return f"{row.op} {self.compiled.kernel.strip('_')}, {row.shape}, {row.dtype}, sm_{row.capability} ({self.case})"

    @property
    def faults(self) -> list[str]:
        """What is wrong with it, in words."""
        each, row = self.compiled, self.compiled.row
        wrong = [words for words in each.faults if not (each.kernel in NARROW and "wide loads" in words)]
        if row.op.startswith("attention") and row.dtype != "fp32" and row.capability == 90 and not each.matrix.get("HGMMA"):
            wrong.append(f"no HGMMA, but {each.matrix or 'no matrix instruction'}")
        return wrong


@dataclass(frozen=True)
class Gate:
    """All that was compiled, and everything that is wrong."""

    results: list[Result]
    faults: list[str]


def shapes(case: Case, every: bool = False) -> list[Shape]:
    """One legal shape for each class of the launch tables, the largest; with `every`, also the narrower heads of a class."""
    if case.op == "attention":
        longest = dict.fromkeys(n for n, _ in attend.CLASSES.values())
        sizes = [(n, d) for n in longest for d in attend.WIDTHS] if every else list(attend.CLASSES.values())
        return [Shape(2, int(n**0.5), int(n**0.5), 4 * d, 4) for n, d in sizes]
    if "other" in case.inputs(Shape(1, 2, 2, 16, 2, 16), torch.bfloat16, "meta", _nothing):
        return [Shape(2, side, side, 128, 12, 64) for side in MAPS]
    return [Shape(2, side, side, 192, 12) for side in MAPS]


def _nothing(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.empty(shape, dtype=torch.float64, device="meta")


def launches(case: Case, shape: Shape, dtype: torch.dtype, capability: int) -> list[Launch]:
    """What forward and backward of a case would launch on a card of `capability`."""
    with launching.recorded(capability) as found:
        given: Inputs = case.inputs(shape, dtype, "meta", _nothing)
        outputs, _ = case.launched(given, shape, None)
        case.launched(given, shape, tuple(torch.empty_like(each) for each in outputs))
    return list(found)


def key(row: launching.Row) -> tuple[str, str, str, int]:
    return row.op, row.shape, row.dtype, row.capability


def heaviest(found: list[Form]) -> list[Form]:
    """One form for each kernel and row: that with most of its branches taken."""
    best: dict[tuple[object, ...], Form] = {}
    for each in found:
        where = (each.launch.kernel.fn.__module__, each.kernel, *key(each.launch.row))
        if where not in best or each.weight > best[where].weight:
            best[where] = each
    return list(best.values())


def recorded(capabilities: list[int], forms: str = "few", dtypes: Sequence[str] = tuple(DTYPES)) -> tuple[list[Form], list[str]]:
    """The launches of all cases in these dtypes, and what could not be launched for want of a row."""
    found: list[Form] = []
    missing: list[str] = []
    for capability in capabilities:
        for case in CASES.values():
            for shape in shapes(case, forms == "all"):
                for name in dtypes:
                    try:
                        found += [Form(each, case.name) for each in launches(case, shape, DTYPES[name], capability)]
                    except KeyError as error:
                        missing.append(f"{case.name} {shape} {name}: the launch tables have no row {error.args[0]}")
    return (found if forms == "all" else heaviest(found)), missing


def unused(found: list[Form], capabilities: list[int], dtypes: Sequence[str] = tuple(DTYPES)) -> list[str]:
    """Rows of the tables for these cards and dtypes that no launch took."""
    rows = {where for where in launching.rows() if where[3] in capabilities and where[2] in dtypes}
    return [f"{' '.join(map(str, where))}: no case uses this row" for where in sorted(rows - {key(each.launch.row) for each in found})]


def edge_faults(capability: int) -> list[str]:
    """What does not compile of the launches whose sizes are 1; nothing is asked of their code."""
    wrong = []
    for name, shape in EDGES:
        for launch in launches(CASES[name], shape, torch.bfloat16, capability):
            try:
                aot.compile_launch(launch)
            except Exception as error:  # whatever the compiler raises is the fault
                said = (str(error).strip().splitlines() or [type(error).__name__])[-1]
                wrong.append(f"{name} {shape} {launch.kernel.fn.__name__}: does not compile: {said}")
    return list(dict.fromkeys(wrong))


def gate(capabilities: list[int], forms: str = "few", workers: int = 2, dtypes: Sequence[str] = tuple(DTYPES)) -> Gate:
    """Compiles the launches of every case: `forms` is "few" (each row once, in its heaviest form) or "all"."""
    found, wrong = recorded(capabilities, forms, dtypes)
    wrong += unused(found, capabilities, dtypes) + edge_faults(capabilities[0])
    results: dict[str, Result] = {}
    for form, compiled in zip(found, aot.compile_all((each.launch for each in found), workers), strict=True):
        results.setdefault(repr(compiled), Result(form.case, compiled))  # forms that differ in nothing compiled are one
    wrong += [f"{each.name}: {words}" for each in results.values() for words in each.faults]
    return Gate(list(results.values()), list(dict.fromkeys(wrong)))


def table(results: list[Result]) -> Iterator[str]:
    """The results as lines of text, one a compiled launch."""
    yield (
        f"{'op and kernel':<40} {'case':<14} {'class':<14} {'dtype':<5} {'card':<6} {'regs':>4} {'spills':>6} {'wide':>5} {'narrow':>6} "
        f"{'shared':>7}  {'matrix':<18} verdict"
    )
    for result in results:
        each, row = result.compiled, result.compiled.row
        matrix = " ".join(f"{kind} {count}" for kind, count in sorted(each.matrix.items())) or "-"
        yield (
            f"{row.op + ' ' + each.kernel.strip('_'):<40} {result.case:<14} {row.shape:<14} {row.dtype:<5} sm_{row.capability:<3} "
            f"{each.registers:>4} {each.spills:>6} {each.wide_loads:>5} {each.narrow_loads:>6} {each.shared:>7}  {matrix:<18} "
            f"{'; '.join(result.faults) or 'ok'}"
        )
