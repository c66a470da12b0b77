"""`python -m benchmarks gpu` (`make gpu`): everything a GPU machine should do, the most valuable first, within a few minutes.

Such a machine has torch, triton, numpy, safetensors, pyarrow and pytest, no internet, and nothing of ours installed. Every step's rows
are on disk when it ends, so that a machine that is taken away costs one step; the same command goes on with what this commit and card
still lack. A step that fails is recorded and the next goes on; the exit code says so.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks import ceilings, contest, kernels, pace, pace_report, profile, rows
from benchmarks.accuracy import accuracy, inputs
from benchmarks.census import Use
from benchmarks.interleave import spread
from benchmarks.kernels import Settings
from benchmarks.rows import Row
from galaxysd import config as configs
from galaxysd.errors import BadInput, GalaxySDError, Stopped, Unavailable
from galaxysd.kernels import launching
from galaxysd.kernels.cases import CASES

PRESET, FULL = "small-64", "base-64"
TESTS = ("tests/kernels", "tests/diffusion/test_captured.py", "tests/test_benchmarks_gpu.py")
SANITIZERS = ("memcheck", "racecheck")


class StepFailed(GalaxySDError):
    """A step of the plan found something wrong; the others ran all the same."""

    exit_code = 1


class TimeUp(Exception):
    """The minutes are over; what is measured is on disk."""


@dataclass
class Plan:
    """Where rows go, and until when."""

    file: Path
    until: float
    commit: str
    card: str

    @property
    def left(self) -> float:
        return self.until - time.monotonic()

    def known(self, kind: str) -> list[Row]:
        return [row for row in rows.read(self.file) if row["kind"] == kind and row["card"] == self.card and row["commit"] == self.commit]

    def keep(self, row: Row) -> None:
        rows.append(self.file, row)

    def need(self, seconds: float) -> None:
        if self.left < seconds:
            raise TimeUp


def _subprocess(command: list[str], plan: Plan, share: float, **environment: str) -> tuple[int, str]:
    """Exit code and last lines of a command that may take a share of the time left."""
    wanted = {**os.environ, "PYTHONPATH": str(rows.ROOT), **environment}
    wanted.pop("TRITON_INTERPRET", None)
    try:
        done = subprocess.run(command, cwd=rows.ROOT, env=wanted, capture_output=True, text=True, timeout=max(10.0, share * plan.left))
    except subprocess.TimeoutExpired as error:
        raise TimeUp from error
    return done.returncode, "\n".join((done.stdout + done.stderr).strip().splitlines()[-12:])


def tests(plan: Plan) -> str:
    """The kernel suite on this card, and the tests that need one."""
    there = [path for path in TESTS if (rows.ROOT / path).exists()]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *there]
    code, said = _subprocess(command, plan, 0.6)
    if code:
        raise StepFailed(said)
    return said.splitlines()[-1]


def limits(plan: Plan) -> str:
    """Copy, matrix product, and each convolution of the preset."""
    known, made = {row["name"] for row in plan.known("ceiling")}, 0
    for row in ceilings.measured(PRESET, known):
        plan.keep(row)
        made += 1
        plan.need(5)
    return f"{made} ceilings measured, {len(known)} known"


def lacking(found: list[Row], card: str) -> list[Use]:
    """What has no row of this card for the files as they are: the preset's step, those that move most first, then other forms."""
    done = {(row["case"], row["shape"]) for row in found if row["kind"] == "kernel" and row["card"] == card and current(row)}
    uses = sorted(kernels.chosen(PRESET, list(CASES), False), key=lambda use: -use.calls * use.shape.elements)
    return [use for use in uses if (use.case, str(use.shape)) not in done]


def current(row: Row) -> bool:
    return row["case"] in CASES and row["digest"] == rows.digest(CASES[row["case"]])


def measured(plan: Plan) -> str:
    """The kernels whose files changed since this card last measured them, then the sums and the profile of a step."""
    settings, wrong, due = Settings.here(), [], lacking(rows.read(plan.file), plan.card)
    for use in due:
        plan.need(20)
        for row in kernels.measure(use, settings):
            plan.keep(row)
            print("  " + kernels.say(row), flush=True)
            wrong += [] if row["green"] else [f"{use.case} {use.shape}"]
        torch.cuda.empty_cache()
    ours = [row for row in rows.read(plan.file) if row["kind"] == "kernel" and row["card"] == plan.card and current(row)]
    total = kernels.headline(PRESET, ours, kernels.chosen(PRESET, None, False))
    if total is not None:
        plan.keep(total)
        print("  " + kernels.say(total), flush=True)
    if wrong:
        raise StepFailed(f"wrong: {', '.join(wrong)}")
    plan.need(20)
    plan.keep(found := profile.step(PRESET))
    return f"{len(due)} shapes measured; of a step's device time {found['shares']['ours']:.0%} is in our kernels"


def small_shapes() -> None:
    """Every case once, forward and backward: what the sanitizer watches."""
    for name, case in CASES.items():
        shape = kernels.rare(name).shape
        accuracy(case, inputs(case, shape, torch.bfloat16, "cuda", torch.channels_last), shape)
    torch.cuda.synchronize()


def sanitized(plan: Plan) -> str:
    """compute-sanitizer over small shapes, where there is one."""
    tool = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if tool is None:
        return "no compute-sanitizer on this machine: not run"
    found = []
    for name in SANITIZERS:
        plan.need(30)
        program = "from benchmarks.gpu import small_shapes; small_shapes()"
        command = [tool, "--tool", name, "--error-exitcode", "9", sys.executable, "-c", program]
        code, said = _subprocess(command, plan, 0.5, PYTORCH_NO_CUDA_MEMORY_CACHING="1")
        if code:
            raise StepFailed(f"{name}: {said}")
        found.append(name)
    return f"{' and '.join(found)}: nothing"


def contests(plan: Plan) -> str:
    """A train step and a sampled unit of the preset against the same network in plain modules."""
    known, said = {row["name"] for row in plan.known("contest")}, []
    makers: dict[str, Callable[[], contest.Contest]] = {
        "train step": lambda: contest.train_step(PRESET, batch=configs.load(PRESET).train.batch, device="cuda"),
        "sampled unit": lambda: contest.sampled_unit(PRESET, device="cuda"),
    }
    for name, make in makers.items():
        if name in known:
            continue
        plan.need(30)
        seconds = contest.on_cuda(make(), 9)
        ratios = {"plain": spread(seconds["ours"], seconds["plain"])}
        plan.keep({"kind": "contest", **rows.provenance(), "name": name, "preset": PRESET, "ratios": ratios})
        said.append(f"{name}: plain takes {ratios['plain']['median']:.2f} of ours")
        torch.cuda.empty_cache()
    return "; ".join(said) or "known"


def paces(plan: Plan) -> str:
    """A train step and a sampled unit at full width against plain modules, eager and under max-autotune, and the convolutions alone."""
    file, said = rows.path(plan.file.parent, "cuda", "pace"), []
    mine = (FULL, plan.card, plan.commit)
    known = {row["name"] for row in rows.read(file) if (row["preset"], row["card"], row["commit"]) == mine}
    for verb in ("train", "sample"):
        if verb in known:
            continue
        plan.need(60)
        row = pace.measure(verb, FULL, "auto", 9, "cuda", compile_limit=max(10.0, plan.left / 8))
        rows.append(file, row)
        said.append(pace_report.say(row))
        torch.cuda.empty_cache()
    return "; ".join(said) or "known"


STEPS: dict[str, Callable[[Plan], str]] = {
    "tests": tests,
    "ceilings": limits,
    "kernels": measured,
    "sanitizer": sanitized,
    "contests": contests,
    "paces": paces,
}


def carried_out(plan: Plan, steps: dict[str, Callable[[Plan], str]]) -> tuple[list[str], list[str]]:
    """Runs the steps that this commit and card lack; those that failed, and those that time did not reach."""
    done = {row["name"] for row in plan.known("step") if row["ok"] and not row["dirty"]}
    failed, unreached = [], []
    for name, step in steps.items():
        if name in done:
            print(f"{name}: done before", flush=True)
            continue
        print(f"{name}: {step.__doc__}", flush=True)
        try:
            plan.need(10)
            ok, said = True, step(plan)
        except TimeUp:
            print(f"{name}: the time is up", flush=True)
            unreached.append(name)
            continue
        except Exception as error:  # recorded, and the next step goes on
            ok, said = False, f"{type(error).__name__}: {error}"
            failed.append(name)
        plan.keep({"kind": "step", **rows.provenance(), "name": name, "ok": ok, "said": said})
        print(f"{name}: {'' if ok else 'FAILED, '}{said}", flush=True)
    return failed, unreached


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--minutes", type=float, default=8.0, help="all of it takes no longer (8)")
    parser.add_argument("--results", type=Path, default=rows.RESULTS, metavar="FOLDER", help="where rows are appended (benchmarks/results)")


def run(args: argparse.Namespace) -> int:
    if args.minutes <= 0:
        raise BadInput(f"--minutes {args.minutes}: more than 0 expected")
    if not torch.cuda.is_available():
        raise Unavailable(
            f"no CUDA device ({rows.card()} alone). On a GPU this runs, in this order: {', '.join(STEPS)}. Without one: "
            "python -m benchmarks kernels, check and compile"
        )
    reason = launching.unready(torch.device("cuda"))
    if reason is not None:
        raise Unavailable(reason)
    plan = Plan(rows.path(args.results), time.monotonic() + 60 * args.minutes, rows.provenance()["commit"], rows.card())
    failed, unreached = carried_out(plan, STEPS)
    print(f"rows: {plan.file}")
    if failed:
        raise StepFailed(f"failed: {', '.join(failed)}" + (f"; not reached: {', '.join(unreached)}" if unreached else ""))
    if unreached:
        raise Stopped(f"{args.minutes:g} minutes are over; not reached: {', '.join(unreached)}; the same command goes on")
    return 0
