"""How far a job is, without writing to it."""

from __future__ import annotations

import json
from pathlib import Path

from galaxysd.jobs import plan as plans
from galaxysd.jobs import status
from galaxysd.runlog import Log
from tests import jobbing


def test_a_job_on_its_way(model, tmp_path: Path, forked, command):
    job = jobbing.planned(model, tmp_path / "job", 200)
    assert jobbing.run(job, "--workers", "1", "--part", "0/2") == 0
    before = jobbing.stamps(job)
    code, said, _ = command("jobs", "status", str(job), "--json")
    assert code == 0
    assert jobbing.stamps(job) == before
    found = json.loads(said)
    assert (found["rows_done"], found["shards_done"], found["finalized"]) == (32 * 3 + 8, 4, False)
    assert found["rate"] > 0
    assert found["seconds_left"] == (200 - found["rows_done"]) / found["rate"]
    assert len(found["slowest"]) == 3
    assert found["failed"] == {}
    _, said, _ = command("jobs", "status", str(job))
    assert "104 of 200 galaxies (52.0%), 4 of 7 shards" in said
    assert "slowest shards:" in said


def test_what_has_gone_wrong(model, tmp_path: Path, command):
    job = jobbing.planned(model, tmp_path / "job", 200)
    with Log(job / "drivers/part-0-of-1/log.jsonl") as log:
        log.write(what="died", shard=2, how="signal SIGKILL")
        log.write(what="failed", shard=3, kind="Unavailable", reason="the disk is full")
    _, said, _ = command("jobs", "status", str(job))
    assert "workers that died and were replaced: 1" in said
    assert "failed: the disk is full" in said


def test_an_old_rate_is_no_rate(model, tmp_path: Path):
    job = jobbing.planned(model, tmp_path / "job", 200)
    with Log(job / "drivers/part-0-of-1/log.jsonl") as log:
        for when in (1000.0, 1010.0):
            log.write(what="done", shard=0, rows=32, bad=0, seconds=10.0, time=when)
    plan = plans.read(job)
    assert status.status(job, plan, 1010.0)["rate"] == 64 / 20
    assert status.status(job, plan, 9999.0)["rate"] == 0
    assert status.status(job, plan, 0.0)["rate"] == 64 / 20  # the clock was set back
