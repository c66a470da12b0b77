"""What the fused operations cost on a CPU: a train step with each of them over plain modules, and the committed ratios, measured again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import contest
from benchmarks.interleave import interleaved, ratio

pytestmark = pytest.mark.proof_kernels

ROOT = Path(__file__).parents[2]


def test_a_train_step_costs_at_most_5_percent_more_with_each_operation(tier, report):
    """One thread, interleaved in one run; the bound is on the ratio that the rounds cannot tell from the true one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        seconds = interleaved(contest.train_step(single=True), rounds=tier("interleaved-rounds"))
    finally:
        torch.set_num_threads(before)
    found = {name: ratio(seconds[name], seconds["plain"]) for name in ("norm", "attention", "ours")}
    for name, each in found.items():
        what = "both operations" if name == "ours" else f"{name} alone"
        report(f"smoke-32 train step with {what}, over plain torch modules", each.median, n=each.rounds, bound=(each.low, each.high))
    assert all(each.median <= 1.05 for each in found.values())


def bench(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", "check", *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400)


def test_the_committed_ratios_hold(report):
    done = bench()
    print(done.stdout)
    held = [line for line in done.stdout.splitlines() if line.startswith("ok ")]
    slower = [line for line in done.stdout.splitlines() if line.startswith("SLOWER")]
    report("committed CPU ratios of kernels that hold", f"{len(held)} of {len(held) + len(slower)}", n=len(held) + len(slower))
    assert done.returncode == 0, done.stderr
    assert held


def test_a_planted_slowdown_of_30_percent_is_found(report):
    done = bench("--plant", "1.3")
    slower = [line for line in done.stdout.splitlines() if line.startswith("SLOWER")]
    looked = [line for line in done.stdout.splitlines() if line.startswith(("ok ", "SLOWER"))]
    report("ratios that a planted slowdown of 30 % is found in", f"{len(slower)} of {len(looked)}", n=len(looked))
    assert done.returncode == 1, done.stdout + done.stderr
    assert slower
