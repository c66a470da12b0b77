"""Kill workers and drivers of a bulk job anywhere: its union is that of a job nobody killed, and little is done twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from galaxysd.data import readers
from galaxysd.jobs import plan as plans
from tests import jobbing

pytestmark = pytest.mark.proof_jobs


def test_kills(tmp_path: Path, tier, report):
    n, wanted = tier("jobs-images"), tier("jobs-kills")
    model = jobbing.model(tmp_path / "run")
    straight = jobbing.planned(model, tmp_path / "straight", n)
    jobbing.kill_until_done(straight, 2, 0, seed=0, pause=1.0)
    whole, needed = jobbing.union(straight), -(-n // plans.read(straight).unit)
    same = 0
    for workers in (1, 2, 4):
        job = jobbing.planned(model, tmp_path / f"killed-{workers}", n)
        kills = jobbing.kill_until_done(job, workers, wanted, seed=workers, pause=0.5)
        same += jobbing.union(job) == whole
        seen = {name for k in range(plans.read(job).shards) for name in readers.open_set(job).ids(k)}
        repeated = kills.units / needed - 1
        deaths = ", ".join(f"{count} {phase}" for phase, count in sorted(kills.phases.items()))
        report(f"{workers} workers: kills by phase ({deaths}), share of units computed twice", repeated, n=kills.total)
        assert len(seen) == n
        assert kills.total >= wanted
        assert kills.phases["commit"] >= 0.2 * kills.total
        assert repeated <= 0.05
    report.rate("killed jobs of 1, 2 and 4 workers that end in the undisturbed union", same, 3)
    assert same == 3


def test_racers(tmp_path: Path, tier, report):
    n = tier("jobs-racing-shards")
    won = jobbing.race(tmp_path, 8, n)
    report("shards that 8 processes raced for, each won once and as its record says", jobbing.faithful(tmp_path, n), n=n)
    assert sorted(number for each in won for number in each) == list(range(n))
    assert jobbing.faithful(tmp_path, n) == n
