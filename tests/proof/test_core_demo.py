"""The five-minute model: what `galaxysd demo --minutes 5` makes on this machine, held to its figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.proof_core

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> dict:
    out = tmp_path_factory.mktemp("demo") / "demo"
    command = [sys.executable, "-m", "galaxysd", "demo", "--minutes", "5", "--json", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads((out / "demo.json").read_text())


def test_requested_classes(demo: dict, report):
    """The judge finds what was asked for at >= 0.85 of its own rate on held-out galaxies; shuffled requests fall to chance."""
    found = demo["evaluation"]["classes"]["classes"]
    for name, each in found["classes"].items():
        rates = (
            f"{each['generated']['rate']:.2f} (judge's own {each['judge_on_held_out']['rate']:.2f}, N {each['judge_on_held_out']['rows']})"
        )
        report(f"requested class found, {name}", rates, n=each["generated"]["rows"], bound=tuple(each["generated"]["interval"]))
    report("mean share of the judge's own rate", found["mean_ratio"], n=found["rows"])
    report("requests shuffled, chance", f"{found['shuffled']['rate']:.2f}, {found['chance']:.2f}", n=found["rows"])
    assert len(found["classes"]) == 4
    assert found["mean_ratio"] >= 0.85
    low, high = found["shuffled"]["interval"]
    assert low <= found["chance"] <= high


def test_flux_coverage_and_copies_stand_beside_their_floors(demo: dict, report):
    like = demo["evaluation"]["like"]
    for row in like["flux_ratio"]["bins"]:
        low, high = row["magnitude"]
        for band, each in row.get("bands", {}).items():
            floor = "held-out halves {:.2f} to {:.2f}".format(*each["floor_range"])
            report(f"median flux ratio, {band}, magnitude {low:.1f} to {high:.1f}; {floor}", each["ratio"], n=row["generated"])
    for name, space in like["spaces"].items():
        cover = space["coverage"]
        report(f"coverage in {name}; held-out halves {cover['floor']:.2f}", cover["value"], n=cover["rows"])
    near = like["memorisation"]
    medians = f"{near['generated']['median']:.3f} generated, {near['held_out']['median']:.3f} held-out"
    report("median distance to the nearest training galaxy", medians, n=near["generated"]["rows"])
    report("suspected copies", near["suspected_copies"], n=near["generated"]["rows"])
    assert not near["exceeds_holdout"]


def test_budget_and_memory(demo: dict, report):
    report("seconds of a 5-minute demo", demo["seconds"]["all"], n=1)
    report("peak memory of the demo, MB", demo["peak_memory_mb"], n=1)
    report("threads, dtype", f"{demo['threads']['chosen']}, {demo['threads']['dtype']}", n=1)
    assert demo["seconds"]["all"] < 330
    assert demo["peak_memory_mb"] < 3000


def test_the_graph_agrees(demo: dict, report):
    worst = max(case["error"] for case in demo["export"]["cases"])
    report("ONNX against torch, largest error over the output's spread", worst, n=len(demo["export"]["cases"]))
    assert demo["export"]["verdict"] == "passed"
