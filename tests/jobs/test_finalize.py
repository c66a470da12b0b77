"""A finalized job is a set that says what it is, where it comes from, and what may be done with it."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from galaxysd import files
from galaxysd.data import readers
from tests import jobbing


@pytest.fixture
def job(model, tmp_path: Path, forked) -> Path:
    job = jobbing.planned(model, tmp_path / "job", 100, "--ask", "edge-on")
    assert jobbing.run(job, "--workers", "1") == 0
    return job


def test_manifest_card_and_set(job: Path, command):
    code, said, _ = command("jobs", "finalize", str(job), "--licence", "cc-by-4.0")
    assert code == 0
    manifest = files.read_json(job / "manifest.json")
    assert f"union SHA-256 {manifest['union']}" in said
    text = (job / "README.md").read_text()
    assert text.startswith("---\nlicense: cc-by-4.0\n")
    for part in (
        "data_files: data/*.parquet",
        "--ask edge-on",
        manifest["union"],
        files.digest(job / "model.safetensors").sha256,
        "is_synthetic",
    ):
        assert part in text
    data = readers.open_set(job)
    assert len(data) == 100
    assert data.provenance["made_by"] == "galaxysd jobs"
    table = pq.read_table(sorted((job / "data").glob("*.parquet")))
    assert table.num_rows == 100
    assert set(table["is_synthetic"].to_pylist()) == {True}


def test_pandas_reads_it(job: Path):
    pandas = pytest.importorskip("pandas", reason="needs pandas (make proof-jobs brings it)")
    frame = pandas.read_parquet(job / "data/shard-00000.parquet")
    assert len(frame) == 32
    assert len(frame.image[0]) == 3 * 8 * 8 * 4


def test_an_unfinished_job(job: Path, command):
    (job / "data/shard-00002.json").unlink()
    code, _, said = command("jobs", "finalize", str(job))
    assert code == 2
    assert "1 of 4 shards are not made yet, first 2" in said
    assert not (job / "manifest.json").exists()


def test_a_stray_shard(job: Path, command):
    for suffix in ("json", "parquet"):
        (job / f"data/shard-00009.{suffix}").write_bytes((job / f"data/shard-00000.{suffix}").read_bytes())
    code, _, said = command("jobs", "finalize", str(job))
    assert code == 2
    assert "shard 9 is none of the plan's 4" in said


def test_a_manifest_of_something_else(job: Path, command):
    assert command("jobs", "finalize", str(job))[0] == 0
    (job / "manifest.json").write_text((job / "manifest.json").read_text().replace('"rows": 100', '"rows": 101'))
    code, _, said = command("jobs", "finalize", str(job))
    assert code == 3
    assert "does not say what the shards are" in said
