"""A billion galaxies: plan, status and finalize hold something for each shard, and nothing for each row."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from galaxysd import files
from galaxysd.data import shards
from galaxysd.jobs import plan as plans

pytestmark = pytest.mark.proof_jobs

PEAK = """
import sys
from galaxysd.cli import main
assert main(sys.argv[1:]) == 0
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))  # ru_maxrss would be the parent's, if that is larger
print(int(peak.split()[1]) / 1024)
"""


def peak(*words: str) -> float:
    """MiB that a command line takes at most."""
    said = subprocess.run([sys.executable, "-c", PEAK, *words], check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    return float(said.stdout.splitlines()[-1])


def pretended(job: Path) -> None:
    """Every shard of the job, with the rows that are planned and a few bytes of data: finalize reads bytes, never rows."""
    plan = plans.read(job)
    (job / "data").mkdir()
    for number in range(plan.shards):
        path = job / "data" / shards.shard_name(number)
        path.write_bytes(f"shard {number}".encode())
        record = {"file": path.name, "rows": len(plan.span(number)), "size": path.stat().st_size, "sha256": files.digest(path).sha256}
        path.with_suffix(".json").write_text(json.dumps(record))


def test_a_billion_rows_in_the_memory_of_a_thousand(tmp_path: Path, report):
    found = {}
    for n in (1000, 10**9):
        job = tmp_path / str(n)
        words = ("jobs", "plan", "sample", "demo-32", "--n", str(n), "--store", "recipe", "--balance", "spiral-arm-count", "--probe", "0")
        found[n] = {"plan": peak(*words, "--out", str(job))}
        pretended(job)
        for verb in ("status", "finalize"):
            found[n][verb] = peak("jobs", verb, str(job))
    assert plans.read(tmp_path / str(10**9)).shards == 15_259
    assert files.read_json(tmp_path / str(10**9) / "manifest.json")["rows"] == 10**9
    for verb, small in found[1000].items():
        large = found[10**9][verb]
        report(f"MiB that `jobs {verb}` takes for 10^9 rows in 15,259 shards; for 10^3 rows {small:.0f}", large, n=10**9)
        assert large - small < 64
