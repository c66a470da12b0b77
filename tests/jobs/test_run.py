"""Shards of one plan: the same bytes for any workers, parts and deaths; what stands is never made again, what is damaged is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from galaxysd import files
from galaxysd.data import readers
from galaxysd.jobs import plan as plans
from galaxysd.jobs import run
from tests import jobbing

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory) -> Path:
    """A job that one worker made, and its union."""
    patch = pytest.MonkeyPatch()
    jobbing.fork_workers(patch)
    job = jobbing.planned(model, tmp_path_factory.mktemp("run") / "job", 200)
    assert jobbing.run(job, "--workers", "1") == 0
    patch.undo()
    jobbing.union(job)
    return job


def test_workers_and_parts_change_no_byte(model, whole: Path, tmp_path: Path, forked):
    two = jobbing.planned(model, tmp_path / "two", 200)
    assert jobbing.run(two, "--workers", "2") == 0
    parts = jobbing.planned(model, tmp_path / "parts", 200)
    for part in (2, 0, 1):
        assert jobbing.run(parts, "--workers", "1", "--part", f"{part}/3") == 0
    assert jobbing.union(two) == jobbing.union(parts) == jobbing.union(whole)
    assert readers.open_set(whole).read().ids == readers.open_set(parts).read().ids


def test_spawned_workers_at_the_command_line_stopped_and_run_again(model, whole: Path, tmp_path: Path, forked):
    """The real thing: SIGTERM ends it with 75, the same command goes on to the same bytes."""
    job = jobbing.planned(model, tmp_path / "job", 200)
    words = [sys.executable, "-m", "galaxysd", "jobs", "run", str(job), "--workers", "1"]
    started = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while not any(plans.committed(job)):
        assert started.poll() is None, started.stderr.read()
        time.sleep(0.005)
    started.send_signal(signal.SIGTERM)
    said = started.communicate(timeout=60)[1]
    assert started.returncode == 75, said
    assert "stopped by SIGTERM" in said
    done = {path: stamp for path, stamp in jobbing.stamps(job / "data").items() if "/shard-" in path}
    assert jobbing.run(job, "--workers", "2") == 0
    assert done.items() <= jobbing.stamps(job / "data").items()
    assert jobbing.union(job) == jobbing.union(whole)


def test_a_finished_job_run_again_writes_nothing(whole: Path):
    before = jobbing.stamps(whole)
    assert jobbing.run(whole) == 0
    assert jobbing.run(whole, "--verify") == 0
    assert jobbing.union(whole) == files.read_json(whole / "manifest.json")["union"]
    assert jobbing.stamps(whole) == before


def test_exactly_the_damaged_shards_are_made_again(model, whole: Path, tmp_path: Path, forked, command):
    job = jobbing.planned(model, tmp_path / "job", 200)
    assert jobbing.run(job, "--workers", "1") == 0
    data = [job / "data" / f"shard-{number:05d}.parquet" for number in range(7)]
    flipped = bytearray(data[1].read_bytes())
    flipped[len(flipped) // 2] ^= 1
    data[1].write_bytes(flipped)  # found by digest
    data[3].write_bytes(data[3].read_bytes()[:-1])  # by size
    data[4].unlink()
    data[6].with_suffix(".json").write_text("{")
    before = jobbing.stamps(job / "data")
    code, _, said = command("jobs", "finalize", str(job))
    assert code == 2
    assert "4 shards are damaged" in said
    assert "--verify makes them again" in said
    assert jobbing.run(job, "--workers", "1", "--verify") == 0
    again = {path for path, stamp in jobbing.stamps(job / "data").items() if before.get(path) != stamp and path.endswith(".parquet")}
    assert again == {str(data[number]) for number in (1, 3, 4, 6)}
    assert jobbing.union(job) == jobbing.union(whole)
    assert len(list((job / "damaged").glob("*.parquet"))) == 3  # nothing is thrown away; the fourth was gone


def test_killed_at_random(model, whole: Path, tmp_path: Path, tier):
    n, kills = tier("jobs-images"), tier("jobs-kills")
    straight, killed = (jobbing.planned(model, tmp_path / name, n) for name in ("straight", "killed"))
    jobbing.kill_until_done(straight, 1, 0, seed=0, pause=0.1)
    found = jobbing.kill_until_done(killed, 2, kills, seed=1, pause=0.4)
    assert jobbing.union(killed) == jobbing.union(straight)
    assert len(set(readers.open_set(killed).read().ids)) == n
    assert found.total >= kills
    assert found.phases["commit"] > 0
    assert not jobbing.leftovers(killed / "data")


def test_a_shard_that_kills_its_workers_is_named(model, tmp_path: Path, forked, monkeypatch, command):
    from galaxysd.jobs import pool
    from galaxysd.jobs.sampling import Sampler

    make = Sampler.make

    def deadly(self, number, go_on):
        if number == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return make(self, number, go_on)

    monkeypatch.setattr(Sampler, "make", deadly)
    monkeypatch.setattr(pool, "PAUSE", 0.01)
    job = jobbing.planned(model, tmp_path / "job", 200)
    code, _, said = command("jobs", "run", str(job), "--workers", "2")
    assert code == 2
    assert "1 of 7 shards could not be made: shard 2: its worker died of signal SIGKILL, 5 times" in said
    assert sorted(plans.committed(job)) == [0, 1, 3, 4, 5, 6]


def test_two_drivers_one_proceeds_unless_they_are_different_parts(model, tmp_path: Path, command):
    job = jobbing.planned(model, tmp_path / "job", 64)
    with run.driving(job, 0, 2):
        for part in ("0/2", "0/1", "1/3"):
            code, _, said = command("jobs", "run", str(job), "--part", part)
            assert code == 3
            assert "is at work in this job, and shares shards with part" in said
        with run.driving(job, 1, 2):
            pass


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--part", "2/2"), "--part 2/2: write it like 0/4"),
        (("--workers", "0"), "--workers 0: at least 1"),
    ],
)
def test_what_cannot_be_run(whole: Path, command, words, said):
    code, _, error = command("jobs", "run", str(whole), *words)
    assert code == 2
    assert said in error


def test_no_job(tmp_path: Path, command):
    code, _, said = command("jobs", "run", str(tmp_path))
    assert code == 2
    assert "not a job (it has no plan.json)" in said
