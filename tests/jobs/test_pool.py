"""What a pool tries again, what it does not, and when it gives up."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from galaxysd.errors import BadInput, GalaxySDError, Unavailable
from galaxysd.jobs import plan as plans
from galaxysd.jobs import pool
from galaxysd.jobs.sampling import Sampler
from tests import jobbing


@pytest.fixture
def job(model, tmp_path: Path, forked, monkeypatch) -> Path:
    monkeypatch.setattr(pool, "PAUSE", 0.01)
    return jobbing.planned(model, tmp_path / "job", 320)


def failing(monkeypatch, number: int, times: int, notes: Path) -> None:
    """fsync fails so many times, in all processes together."""
    fsync = os.fsync

    def refusing(handle: int) -> None:
        if (notes.stat().st_size if notes.exists() else 0) < times:
            with notes.open("ab") as file:
                file.write(b"x")
            raise OSError(number, os.strerror(number))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", refusing)


def test_a_disk_that_fails_for_a_while(job: Path, tmp_path: Path, monkeypatch, command):
    failing(monkeypatch, errno.EIO, 3, tmp_path / "notes")
    assert jobbing.run(job, "--workers", "1") == 0
    assert len(set(plans.committed(job))) == 10
    assert not jobbing.leftovers(job / "data")
    code, said, _ = command("jobs", "status", str(job))
    assert code == 0
    assert "failed" not in said  # what failed was made in the end


def test_a_full_disk_ends_it_and_leaves_nothing_torn(job: Path, tmp_path: Path, monkeypatch, command):
    failing(monkeypatch, errno.ENOSPC, 10**6, tmp_path / "notes")
    code, _, said = command("jobs", "run", str(job), "--workers", "2")
    assert code == 4
    assert "8 of 10 shards could not be made" in said
    assert "the disk is full" in said
    assert "2 more were not tried; the same command tries again" in said
    assert [path.name for path in (job / "data").iterdir()] == [".commits"]
    monkeypatch.undo()
    jobbing.fork_workers(monkeypatch)
    assert jobbing.run(job, "--workers", "2") == 0


def test_what_is_wrong_with_the_job_is_tried_once(job: Path, tmp_path: Path, monkeypatch, command):
    make, notes = Sampler.make, tmp_path / "notes"

    def picky(self, number, go_on):
        if number == 4:
            with notes.open("ab") as file:
                file.write(b"x")
            raise BadInput("draws pixels that are not finite")
        return make(self, number, go_on)

    monkeypatch.setattr(Sampler, "make", picky)
    code, _, said = command("jobs", "run", str(job), "--workers", "2")
    assert code == 2
    assert "1 of 10 shards could not be made: shard 4: draws pixels that are not finite;" in said
    assert notes.stat().st_size == 1
    assert len(set(plans.committed(job))) == 9


def test_workers_that_cannot_start(job: Path, monkeypatch, command):
    monkeypatch.setattr(pool, "opened", lambda *_: os._exit(9))
    code, _, said = command("jobs", "run", str(job), "--workers", "2")
    assert code == 4
    assert "5 workers in a row died of exit code 9 while they started; is there memory for them?" in said


def test_errors_come_back_as_what_they_were():
    assert type(pool.error_of("Unavailable", "x")) is Unavailable
    assert type(pool.error_of(pool.DIED, "x")) is GalaxySDError
