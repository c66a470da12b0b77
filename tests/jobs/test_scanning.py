"""A scan says of every galaxy what the classifier says, whatever becomes of its neighbours, and of every unreadable one why."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from galaxysd import files
from galaxysd.cli import main
from galaxysd.data import readers
from galaxysd.jobs import commits
from galaxysd.jobs import plan as plans
from galaxysd.jobs.pool import shard
from galaxysd.jobs.scanning import Scanner
from galaxysd.model.classifier import load_judge
from tests import jobbing, poisoned


@pytest.fixture
def job(survey: Path, tmp_path: Path) -> Path:
    assert main(["jobs", "plan", "scan", "--data", str(survey), "--probe", "0", "--out", str(tmp_path / "job")]) == 0
    return tmp_path / "job"


def columns(job: Path, number: int):
    return pq.read_table(job / "data" / f"shard-{number:05d}.parquet")


def test_what_the_judge_says(job: Path, survey: Path, forked):
    assert jobbing.run(job, "--workers", "2") == 0
    jobbing.union(job)
    judge, data = load_judge(), readers.open_set(survey)
    for number in range(2):
        found, galaxies = columns(job, number), data.load(number)
        alpha = judge.concentrations(galaxies, data.frame)
        assert found["id"].to_pylist() == galaxies.ids
        assert found["error"].null_count == len(galaxies)
        for column, answer in enumerate(judge.labels.answers):
            assert torch.allclose(torch.tensor(found[f"concentration_{answer}"].to_pylist()), alpha[:, column], rtol=1e-4)
            assert torch.allclose(torch.tensor(found[f"pred_{answer}"].to_pylist()), judge.labels.fractions(alpha)[:, column], atol=1e-5)
        assert torch.allclose(torch.tensor(found["embedding"].to_pylist()), judge.embed(galaxies, data.frame), atol=1e-4)
    assert columns(job, 1)["index"].to_pylist() == list(range(100, 150))
    assert files.read_json(job / "manifest.json")["rows"] == 150


def test_bad_rows_are_quarantined_and_change_nobody_else(job: Path):
    plan = plans.read(job)
    sound, sick = Scanner(job, plan), Scanner(job, plan, poisoned.Poisoned, (2, 1))
    try:
        told = [shard(sick, job, number, lambda _: None) for number in range(2)]
        whole = sound.make(0, lambda _: None).table
    finally:
        sound.close()
        sick.close()
    assert [each["bad"] for each in told] == [len(poisoned.bad_rows(0, 100)), 50]
    for number, count in ((0, 100), (1, 50)):
        found, bad = columns(job, number), poisoned.bad_rows(number, count)
        assert {row for row, reason in enumerate(found["error"].to_pylist()) if reason is not None} == bad
        assert {row for row, value in enumerate(found["pred_bar_yes"].to_pylist()) if value is None} == bad
        assert {each["row"] for each in files.read_json(commits.quarantine_path(job, number))["rows"]} == bad
    good = [row for row in range(100) if row not in poisoned.bad_rows(0, 100)]
    assert columns(job, 0).take(good).equals(whole.take(good))  # to the bit
    jobbing.union(job)


def test_max_bad_stops(job: Path, survey: Path, forked, command):
    path = survey / "data/shard-00001.parquet"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"?")
    try:
        code, _, said = command("jobs", "run", str(job), "--workers", "1", "--max-bad", "49")
        assert code == 2
        assert "50 rows could not be read, more than --max-bad 49" in said
        assert jobbing.run(job, "--workers", "1", "--max-bad", "50") == 0
    finally:
        path.write_bytes(content)
    assert "its record says" in columns(job, 1)["error"][0].as_py()
    code, said, _ = command("jobs", "status", str(job))
    assert "rows that could not be read: 50" in said


def test_another_set_in_its_place_is_refused(job: Path, survey: Path, forked, command):
    path = survey / "manifest.json"
    content = path.read_bytes()
    path.write_bytes(content + b"\n")
    try:
        code, _, said = command("jobs", "run", str(job), "--workers", "1")
    finally:
        path.write_bytes(content)
    assert code == 3
    assert "another than when the scan was planned" in said
