"""The plan fixes what the bytes depend on, and refuses to be worked on elsewhere or otherwise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from galaxysd import files
from galaxysd.errors import BadInput, GalaxySDError, Mismatch
from galaxysd.jobs import plan as plans
from tests import jobbing


@pytest.fixture
def job(model, tmp_path: Path) -> Path:
    return jobbing.planned(model, tmp_path / "job", 200)


def changed(job: Path, change) -> None:
    value = files.read_json(job / "plan.json")
    change(value)
    (job / "plan.json").write_text(json.dumps(value))


def test_it_comes_back_as_it_was_written(job: Path):
    plan = plans.read(job)
    assert (plan.kind, plan.rows, plan.shards, plan.shard_rows, plan.unit, plan.seed) == ("sample", 200, 7, 32, 16, 3)
    assert plan.model == files.digest(job / "model.safetensors")
    assert plan.sha256 == files.read_json(job / "plan.json")["sha256"]
    assert [len(plan.span(number)) for number in range(7)] == [32] * 6 + [8]
    assert sorted(number for part in range(3) for number in plan.part(part, 3)) == list(range(7))


def test_a_changed_plan_is_refused(job: Path):
    changed(job, lambda value: value["plan"].update(seed=4))
    with pytest.raises(Mismatch, match="a plan is never changed"):
        plans.read(job)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda value: value.update(schema_version=2), "schema_version 2, this galaxysd reads 1"),
        (lambda value: value["plan"].update(colour="red"), "'colour' is unknown or missing"),
        (lambda value: value["plan"].pop("seed"), "'seed' is unknown or missing"),
        (lambda value: value["plan"].update(model={"size": 1}), "model is no digest"),
        (lambda value: value.pop("plan"), "not the plan of a job"),
    ],
)
def test_a_damaged_plan(job: Path, change, words: str):
    changed(job, change)
    with pytest.raises(BadInput, match=words):
        plans.read(job)


@pytest.mark.parametrize("name", ["torch", "instruction_set", "pyarrow", "machine", "galaxysd"])
def test_another_class_of_machine_is_refused(job: Path, name: str, monkeypatch, command):
    here = plans.environment("cpu")
    monkeypatch.setattr(plans, "environment", lambda device: {**here, name: "another"})
    code, _, said = command("jobs", "run", str(job))
    assert code == 3
    assert f"planned for {name} {here[name]}, here it is another" in said


def test_another_model_is_refused_and_a_missing_one_named(job: Path, forked, command):
    model = job / "model.safetensors"
    content = model.read_bytes()
    model.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    code, _, said = command("jobs", "run", str(job), "--workers", "1")
    assert code == 3
    assert "put the planned one back" in said
    model.unlink()
    code, _, said = command("jobs", "run", str(job), "--workers", "1")
    assert code == 2
    assert "missing, though the plan names it" in said


def test_a_worker_given_another_plan_refuses(job: Path):
    from galaxysd.jobs import pool

    with pytest.raises(Mismatch, match="another job took its place"):
        pool.opened(job, "0" * 64)


@pytest.mark.parametrize(
    ("rows", "shard_rows", "words"),
    [
        (0, 32, "--n 0: give at least 1"),
        (100, 0, "must lie between 1 and 65536"),
        (100, 40, "not a multiple of the model's unit of 16, which is drawn whole; use 32"),
        (10**9, 16, "62500000 shards, at most"),
    ],
)
def test_shards_that_cannot_be(rows: int, shard_rows: int, words: str):
    with pytest.raises(GalaxySDError, match=words):
        plans.shard_count(rows, shard_rows, 16)


def test_shards_of_a_usual_size():
    assert plans.default_shard_rows(10**9, 12_500, 16) == 30_720 + 16
    assert plans.default_shard_rows(10**9, 30, 16) == 65_536
    assert plans.default_shard_rows(1000, 12_500, 16) == 16
    for row_bytes in (30, 12_500, 800_000):
        plans.shard_count(10**9, plans.default_shard_rows(10**9, row_bytes, 16), 16)
