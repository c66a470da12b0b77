"""`python -m benchmarks status`: the kernels whose files changed since a GPU last measured them, never measured included."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import rows
from benchmarks.rows import Row
from galaxysd.kernels.cases import CASES


@dataclass(frozen=True)
class State:
    """What is known of one case on a GPU."""

    case: str
    current: bool  # a green GPU row speaks for the files as they are
    said: str


def states(found: list[Row], card: str | None = None) -> list[State]:
    """One for each case, from GPU rows; of one card alone, where it is named."""
    last: dict[str, Row] = {}
    for row in found:
        if row["kind"] == "kernel" and row["green"] and row["device"] == "cuda" and card in (None, row["card"]):
            last[row["case"]] = row
    return [_state(name, last.get(name)) for name in CASES]


def _state(name: str, row: Row | None) -> State:
    if row is None:
        return State(name, False, "not measured on a GPU yet")
    where = f"{row['card']}, {row['time'][:10]}, commit {row['commit'][:9]}"
    if row["digest"] != rows.digest(CASES[name]):
        return State(name, False, f"its files changed since {where}")
    return State(name, True, f"measured as it is: {where}")


def changed(found: list[Row], card: str | None = None) -> list[str]:
    """The cases a GPU should measure."""
    return [state.case for state in states(found, card) if not state.current]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the states as JSON")
    parser.add_argument("--results", type=Path, default=rows.RESULTS, metavar="FOLDER", help="where rows are (benchmarks/results)")


def run(args: argparse.Namespace) -> int:
    found = states(rows.read(rows.path(args.results, "cuda")))
    if args.json:
        print(json.dumps([asdict(state) for state in found], indent=1))
        return 0
    for state in found:
        print(f"{'ok ' if state.current else 'due'} {state.case:<14} {state.said}")
    due = [state.case for state in found if not state.current]
    print(f"a GPU should measure {', '.join(due)}: make gpu" if due else "nothing is due")
    return 0
