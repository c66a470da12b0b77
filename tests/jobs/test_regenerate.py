"""Any galaxies of a job again, with the same bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from galaxysd.data import readers
from galaxysd.errors import GalaxySDError
from galaxysd.jobs import regenerate
from tests import jobbing


def test_the_same_bytes_again(model, tmp_path: Path, forked, command, monkeypatch):
    job = jobbing.planned(model, tmp_path / "job", 100, "--balance", "bar")
    assert jobbing.run(job, "--workers", "2") == 0
    jobbing.union(job)
    monkeypatch.setattr(regenerate, "SHARD_ROWS", 5)
    code, said, _ = command("jobs", "regenerate", str(job), "--rows", "77,30-40", "--out", str(tmp_path / "again"))
    assert code == 0
    assert "12 galaxies" in said
    rows = [*range(30, 41), 77]
    whole, again = readers.open_set(job).read(), readers.open_set(tmp_path / "again").read()
    assert again.ids == [whole.ids[row] for row in rows]
    assert torch.equal(again.images, whole.images[rows])
    assert torch.equal(again.cond_counts, whole.cond_counts[rows])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("100", "this job has the galaxies 0 to 99"),
        ("9-3", "a range rises"),
        ("1,x", "write indices and ranges"),
        ("3-5,5", "galaxy 5 is asked for twice"),
        ("", "write indices and ranges"),
    ],
)
def test_rows_that_are_not_there(text: str, words: str):
    with pytest.raises(GalaxySDError, match=words):
        regenerate.spans(text, 100)


def test_only_a_sample_can_be_drawn(survey: Path, tmp_path: Path, command):
    assert command("jobs", "plan", "scan", "--data", str(survey), "--probe", "0", "--out", str(tmp_path / "scan"))[0] == 0
    code, _, said = command("jobs", "regenerate", str(tmp_path / "scan"), "--rows", "1", "--out", str(tmp_path / "set"))
    assert code == 2
    assert "the plan of a scan, a sample is needed here" in said
