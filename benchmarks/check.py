"""`python -m benchmarks check` (`make bench`): measures again what the committed rows say, and fails when a kernel or a step became slower.

Compared are ratios, never times: how many times as long as ours a peer takes, measured in turns in one process. A ratio that falls
below its share of the committed one is measured again with more rounds; only one that does so twice is a failure. Then the goals of a
train step and of a sampled unit are held against the committed rows: one that is missed is a failure too.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks import census, goals, kernels, pace, pace_report, rows
from benchmarks.census import Use
from benchmarks.kernels import Settings
from benchmarks.rows import Row
from galaxysd.errors import BadInput, GalaxySDError, Unavailable
from galaxysd.kernels.cases import CASES

ALLOWED = {"cuda": 0.97, "cpu": 0.85}  # of the committed ratio
Measure = Callable[[Use, str, bool], Row]  # (use, pass, again) -> a fresh row


class Slower(GalaxySDError):
    """A kernel or a step is slower than its committed row, twice, or a goal is missed."""

    exit_code = 1


@dataclass(frozen=True)
class Verdict:
    """One committed ratio, and what was found."""

    what: str
    peer: str
    committed: float
    found: list[float]
    allowed: float

    @property
    def ok(self) -> bool:
        return max(self.found) >= self.allowed * self.committed

    def __str__(self) -> str:
        shown = ", then ".join(f"{each:.2f} ({each / self.committed:.2f} of it)" for each in self.found)
        return f"{'ok    ' if self.ok else 'SLOWER'} {self.what} {self.peer}: committed {self.committed:.2f}, found {shown}"


def comparable(found: list[Row], device: str, card: str, dtype: str) -> tuple[list[Row], str]:
    """The rows to compare with: of this card, or else of the kind of machine; and which these are, in words."""
    latest = [row for row in rows.latest(found).values() if row["device"] == device and row["dtype"] == dtype and row["ratios"]]
    mine = [row for row in latest if row["card"] == card]
    if mine or not latest:
        return mine, f"rows of {card}"
    return latest, f"rows of {', '.join(sorted({row['card'] for row in latest}))}: there is none of {card}, whose ratios may differ"


def measurable(found: list[Row]) -> tuple[list[Row], list[Row]]:
    """Rows whose shape a preset's step still has, and the others."""
    known = uses()
    there = [row for row in found if (row["case"], row["shape"]) in known]
    return there, [row for row in found if row not in there]


def uses() -> dict[tuple[str, str], Use]:
    """Every use of every preset's step by what a row calls it, and the shapes of forms that no step uses."""
    every = [use for preset in census.PRESETS for use in kernels.chosen(preset, list(CASES), False)]
    return {(use.case, str(use.shape)): use for use in every}


def verdicts(committed: list[Row], measure: Measure, allowed: float) -> Iterator[Verdict]:
    """Measures each committed row again, the doubtful ones twice."""
    known = uses()
    for row in committed:
        found: dict[str, list[float]] = {}
        for again in (False, True):
            fresh = measure(known[row["case"], row["shape"]], row["pass"], again)
            if not fresh["green"]:
                raise Slower(f"{row['case']} {row['shape']}: it is wrong, not slow: {'; '.join(fresh['wrong'])}")
            for peer in row["ratios"]:
                if peer in fresh["ratios"]:
                    found.setdefault(peer, []).append(fresh["ratios"][peer]["median"])
            if all(values[-1] >= allowed * row["ratios"][peer]["median"] for peer, values in found.items()):
                break
        what = f"{row['case']:<14} {row['shape']:<22} {row['pass']:<17}"
        yield from (Verdict(what, peer, row["ratios"][peer]["median"], values, allowed) for peer, values in found.items())


def steps(found: list[Row], device: str, card: str) -> list[Row]:
    """The newest rows of a step of the preset that is measured unasked, on this card."""
    return [
        row
        for row in pace_report.newest(found)
        if row["sweep"] is None and row["preset"] == pace.PRESET[device] and (row["device"], row["card"]) == (device, card)
    ]


def paces(committed: list[Row], measure: Callable[[Row, bool], Row], allowed: float) -> Iterator[Verdict]:
    """Measures steps again, eager, the doubtful ones twice."""
    for row in committed:
        wanted, values = eager(row), []
        for again in (False, True):
            values.append(eager(measure(row, again)))
            if values[-1] >= allowed * wanted:
                break
        yield Verdict(f"{pace_report.what(row):<55}", "plain", wanted, values, allowed)


def eager(row: Row) -> float:
    """How many times as long as ours plain modules take, neither compiled."""
    return float(row["seconds"]["plain"] / row["seconds"]["ours"])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--plant", type=float, default=1.0, metavar="1.3", help="make our calls cost this many times as much: it must fail")
    parser.add_argument("--case", action="append", metavar="NAME", help="only this case; may be given again")
    parser.add_argument("--rounds", type=int, help="turns of each contestant; three times as many where the first result is in doubt")
    parser.add_argument("--results", type=Path, default=rows.RESULTS, metavar="FOLDER", help="where rows are (benchmarks/results)")


def run(args: argparse.Namespace) -> int:
    if args.plant < 1:
        raise BadInput(f"--plant {args.plant}: 1 or more expected, 1.3 for a slowdown of 30 %")
    plain = Settings.here(args.rounds, plant=args.plant)
    device = plain.device.type
    file, allowed = rows.path(args.results), ALLOWED[device]
    committed, which = comparable(rows.read(file), device, rows.card(), kernels.DTYPES[plain.dtype])
    committed, strange = measurable([row for row in committed if args.case is None or row["case"] in args.case])
    if not committed:
        raise Unavailable(f"{file}: no row of a {device} in {kernels.DTYPES[plain.dtype]} to compare with; python -m benchmarks kernels")
    compiled = any("torch.compile" in row["ratios"] for row in committed)
    print(f"{rows.card()}: {len(committed)} {which}; a ratio may fall to {allowed} of the committed one", flush=True)
    if strange:
        print(f"{len(strange)} rows are of shapes that no preset has any more: passed over", flush=True)
    if device == "cpu":
        print("no CUDA device: the CPU's operators are measured, not the Triton kernels", flush=True)

    def measure(use: Use, which: str, again: bool) -> Row:
        settings = Settings.here(plain.rounds * (3 if again else 1), compiled and device == "cuda", args.plant)
        return next(iter(kernels.measure(use, settings, (which,))))

    every = itertools.chain(verdicts(committed, measure, allowed), () if args.case else of_steps(args, device, allowed))
    failed, looked = [], 0
    for verdict in every:
        print(verdict, flush=True)
        looked += 1
        failed += [] if verdict.ok else [" ".join(verdict.what.split())]
    missed = [] if args.case else reached(args.results)
    if failed:
        raise Slower(f"{len(failed)} of {looked} ratios below {allowed} of the committed ones, twice: {'; '.join(failed)}")
    if missed:
        raise Slower(f"{len(missed)} goals missed: {'; '.join(missed)}")
    print(f"{looked} ratios hold")
    return 0


def of_steps(args: argparse.Namespace, device: str, allowed: float) -> Iterator[Verdict]:
    """The steps of this card against their committed rows."""
    committed = steps(rows.read(rows.path(args.results, device, "pace")), device, rows.card())
    if not committed:
        print(f"no row of a step on {rows.card()} to compare with: python -m benchmarks train, and sample", flush=True)

    def measure(row: Row, again: bool) -> Row:
        counted = "train.batch" if row["name"] == "train" else "sample.unit"
        dtype = {"bfloat16": "bf16", "float32": "fp32"}[row["dtype"]]
        rounds = (args.rounds or row["rounds"]) * (3 if again else 1)
        with pace.one_thread():
            return pace.measure(row["name"], row["preset"], dtype, rounds, device, (f"{counted}={row['batch']}",), plant=args.plant)

    return paces(committed, measure, allowed)


def reached(folder: Path) -> list[str]:
    """Prints every goal; gives those missed."""
    found = [row for on in ("cuda", "cpu") for row in rows.read(rows.path(folder, on, "pace"))]
    missed = []
    for each in goals.outcomes(found):
        print(f"goal: {each}", flush=True)
        missed += [] if each.ok else [str(each)]
    return missed
