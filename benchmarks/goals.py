"""What a step is meant to reach, held against the newest rows of `train` and `sample`: met, missed, or not measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks import pace_report
from benchmarks.rows import Row
from galaxysd import config as configs

EXPLAINED = 0.9  # of a step that named operations must make up


@dataclass(frozen=True)
class Goal:
    """A bound on a number of a row. `explained` lets a miss stand whose row says where the time goes, operation by operation."""

    device: str
    verb: str
    preset: str
    what: str
    value: Callable[[Row], float | None]
    least: float = 0.0
    most: float = float("inf")
    explained: bool = False


@dataclass(frozen=True)
class Outcome:
    """A goal on a card."""

    goal: Goal
    said: str
    ok: bool = True

    def __str__(self) -> str:
        goal = self.goal
        bound = f"at least {goal.least:g}" if goal.least else f"at most {goal.most:g}"
        return f"{goal.device} {goal.verb} {goal.preset}: {goal.what} {bound}: {self.said}"


def over_convolutions(row: Row) -> float:
    return 1 / float(row["ratios"]["convolutions"]["median"])


def best_of(side: str) -> Callable[[Row], float | None]:
    """How many times as long as ours the better form of this side takes; None where it took no part."""
    return lambda row: float(row["ratios"][row["best"][side]]["median"]) if side in row["best"] else None


def form(name: str) -> Callable[[Row], float | None]:
    """How many times as long as ours this form takes; None where it took no part."""
    return lambda row: float(row["ratios"][name]["median"]) if name in row["ratios"] else None


GOALS = (
    Goal("cuda", "train", "base-64", "time over its convolutions alone", over_convolutions, most=1.20),
    Goal("cuda", "train", "base-64", "share outside convolutions", pace_report.outside, most=0.20),
    Goal("cuda", "train", "base-64", "plain modules under max-autotune take times ours", form("plain, max-autotune"), least=1.15),
    Goal("cuda", "train", "base-64", "plain modules, eager, take times ours", form("plain"), least=2.5),
    Goal("cuda", "sample", "base-64", "time over its convolutions alone", over_convolutions, most=1.25),
    *(
        goal
        for verb in ("train", "sample")
        for goal in (
            Goal("cpu", verb, "smoke-32", "diffusers takes times ours", best_of("diffusers"), least=1.0),
            Goal("cpu", verb, "smoke-32", "time over its convolutions alone", over_convolutions, most=1.3, explained=True),
        )
    ),
)


def outcomes(found: list[Row]) -> Iterator[Outcome]:
    """Every goal, on each card that has a row for it; of the presets' own batch and resolution, not of sweeps."""
    rows = [row for row in pace_report.newest(found) if row["sweep"] is None and row["batch"] == own_batch(row["name"], row["preset"])]
    for goal in GOALS:
        mine = [row for row in rows if (row["device"], row["name"], row["preset"]) == (goal.device, goal.verb, goal.preset)]
        for row in mine or [None]:
            value = None if row is None else goal.value(row)
            yield Outcome(goal, "not measured") if row is None or value is None else judged(goal, row, value)


def own_batch(verb: str, preset: str) -> int:
    """Of the preset's train step, or its unit."""
    config = configs.load(preset)
    return config.train.batch if verb == "train" else config.sample.unit


def judged(goal: Goal, row: Row, value: float) -> Outcome:
    """Whether a measured number reaches its goal."""
    where = f"{value:.2f} on {row['card']}, {row['dtype']}, batch {row['batch']}, commit {row['commit'][:9]}"
    if goal.least <= value <= goal.most:
        return Outcome(goal, f"met, {where}")
    if goal.explained and 1 - row["ops"].get("others", 1) >= EXPLAINED:
        return Outcome(goal, f"missed, {where}; operation by operation: {pace_report.by_operation(row)}")
    return Outcome(goal, f"MISSED, {where}", ok=False)
