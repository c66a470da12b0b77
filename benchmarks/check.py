"""`python -m benchmarks check` (`make bench`): measures again what the committed rows say, and fails when a kernel became slower.

Compared are ratios, never times: how many times as long as ours a peer takes, measured in turns in one process. A ratio that falls
below its share of the committed one is measured again with more rounds; only one that does so twice is a failure.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks import census, kernels, rows
from benchmarks.census import Use
from benchmarks.kernels import Settings
from benchmarks.rows import Row
from galaxysd.errors import BadInput, GalaxySDError, Unavailable
from galaxysd.kernels.cases import CASES

ALLOWED = {"cuda": 0.97, "cpu": 0.85}  # of the committed ratio
Measure = Callable[[Use, str, bool], Row]  # (use, pass, again) -> a fresh row


class Slower(GalaxySDError):
    """A kernel is slower than its committed row, twice."""

    exit_code = 1


@dataclass(frozen=True)
class Verdict:
    """One committed ratio, and what was found."""

    row: Row
    peer: str
    found: list[float]
    allowed: float

    @property
    def committed(self) -> float:
        return self.row["ratios"][self.peer]["median"]

    @property
    def ok(self) -> bool:
        return max(self.found) >= self.allowed * self.committed

    def __str__(self) -> str:
        shown = ", then ".join(f"{each:.2f} ({each / self.committed:.2f} of it)" for each in self.found)
        where = f"{self.row['case']:<14} {self.row['shape']:<22} {self.row['pass']:<17} {self.peer}"
        return f"{'ok    ' if self.ok else 'SLOWER'} {where}: committed {self.committed:.2f}, found {shown}"


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
        yield from (Verdict(row, peer, values, allowed) for peer, values in found.items())


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

    failed, looked = [], 0
    for verdict in verdicts(committed, measure, allowed):
        print(verdict, flush=True)
        looked += 1
        failed += [] if verdict.ok else [f"{verdict.row['case']} {verdict.row['shape']} {verdict.row['pass']}"]
    if failed:
        raise Slower(f"{len(failed)} of {looked} ratios below {allowed} of the committed ones, twice: {'; '.join(failed)}")
    print(f"{looked} ratios hold")
    return 0
