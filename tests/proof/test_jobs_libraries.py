"""What a job writes opens in the field's own libraries, without a line of ours."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from galaxysd.data import readers
from tests import jobbing

pytestmark = pytest.mark.proof_jobs

READ = """
import glob, json, sys
import datasets, numpy, pandas, pyarrow.parquet
paths = sorted(glob.glob(sys.argv[1] + "/data/*.parquet"))
hub = datasets.load_dataset("parquet", data_files=paths, split="train", cache_dir=sys.argv[2])
frame = pandas.concat([pandas.read_parquet(path) for path in paths], ignore_index=True)
table = pyarrow.parquet.read_table(paths)
def flux(row):
    return float(numpy.frombuffer(row["image"], row["image_dtype"]).reshape(row["image_shape"]).astype("f8").sum())
rows = [hub[77], frame.iloc[77], table.slice(77, 1).to_pylist()[0]]
assert "galaxysd" not in sys.modules
print(json.dumps([[len(hub), len(frame), table.num_rows], [str(row["id"]) for row in rows], [flux(row) for row in rows]]))
"""


def test_datasets_pandas_and_pyarrow(tmp_path: Path, monkeypatch, report):
    pytest.importorskip("datasets", reason="needs datasets; `make proof-jobs` installs it")
    jobbing.fork_workers(monkeypatch)
    job = jobbing.planned(jobbing.model(tmp_path / "run"), tmp_path / "job", 100)
    assert jobbing.run(job, "--workers", "1") == 0
    jobbing.union(job)
    words = [sys.executable, "-c", READ, str(job), str(tmp_path / "cache")]
    counts, ids, sums = json.loads(subprocess.run(words, cwd=tmp_path, check=True, capture_output=True, text=True).stdout)
    ours = readers.open_set(job).read()
    assert counts == [100] * 3
    assert set(ids) == {ours.ids[77]}
    assert np.allclose(sums, float(ours.images[77].double().sum()), rtol=1e-12)
    report("rows read alike by datasets, pandas and pyarrow", 100, n=100)
