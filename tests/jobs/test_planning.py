"""`galaxysd jobs plan` as a person types it: the budget, and what cannot be planned."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from galaxysd import files
from galaxysd.jobs import plan as plans
from tests import jobbing


def test_the_budget_comes_first(model, tmp_path: Path, command):
    words = ("jobs", "plan", "sample", str(model), "--n", "1000000000", "--probe", "0.2", *jobbing.QUICK, "--out", str(tmp_path / "job"))
    code, said, _ = command(*words, "--json")
    assert code == 0
    found = json.loads(said)
    assert found["files"] == 2 * found["shards"]
    assert found["bytes"] == pytest.approx(1e9 * (3 * 8 * 8 * 4), rel=0.5)
    assert found["worker_hours"] == pytest.approx(1e9 / found["rate"] / 3600)
    assert found["plan"] == plans.read(tmp_path / "job").sha256
    code, said, _ = command(*words[:-1], str(tmp_path / "again"))
    assert code == 0
    assert "core hours" in said
    assert f"planned: {tmp_path / 'again'}" in said


def test_the_model_is_copied(model, tmp_path: Path):
    job = jobbing.planned(model, tmp_path / "job", 32, "--guide", str(model))
    plan = plans.read(job)
    assert plan.model == plan.guide == files.digest(job / "guide.safetensors")


def test_like_a_table_over_and_over(model, tmp_path: Path, command):
    pq.write_table(pa.table({"bar_yes": [0.1, 0.9, 0.5]}), tmp_path / "t.parquet")
    words = ("jobs", "plan", "sample", str(model), "--like", str(tmp_path / "t.parquet"), "--probe", "0", "--out")
    assert command(*words, str(tmp_path / "all"))[0] == 0
    assert plans.read(tmp_path / "all").rows == 3
    assert command(*words, str(tmp_path / "more"), "--n", "100")[0] == 0
    assert plans.read(tmp_path / "more").rows == 100


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "--n: say how many galaxies"),
        (("--n", "0"), "--n 0: give at least 1"),
        (("--n", "64", "--shard-rows", "24"), "use 16"),
        (("--n", "64", "--balance", "bar_yes"), "name a question, or two answers"),
        (("--n", "64", "--ask", "spirall"), "did you mean"),
        (("--n", "64", "--probe", "-1"), "--probe -1.0"),
        (("--n", "64", "--slurm", "0"), "at least 1 part"),
        (("--n", "64", "--store", "pixel"), "did you mean pixels?"),
    ],
)
def test_what_cannot_be_planned(model, tmp_path: Path, command, words, said: str):
    code, _, error = command("jobs", "plan", "sample", str(model), "--probe", "0", *words, "--out", str(tmp_path / "job"))
    assert code == 2
    assert said in error
    assert not (tmp_path / "job").exists() or not list((tmp_path / "job").iterdir())


def test_a_folder_with_something_in_it(model, tmp_path: Path, command):
    (tmp_path / "mine").write_text("mine")
    code, _, said = command("jobs", "plan", "sample", str(model), "--n", "32", "--probe", "0", "--out", str(tmp_path))
    assert code == 2
    assert "not empty" in said


def test_a_set_the_judge_cannot_look_at(model, tmp_path: Path, forked, command):
    job = jobbing.planned(model, tmp_path / "job", 16)
    assert jobbing.run(job, "--workers", "1") == 0
    jobbing.union(job)
    code, _, said = command("jobs", "plan", "scan", "--data", str(job), "--probe", "0", "--out", str(tmp_path / "scan"))
    assert code == 2
    assert "looks at 32 px" in said
