"""The batch script, run by bash with a scheduler that only takes notes."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from galaxysd.jobs import slurm


@pytest.fixture
def cluster(tmp_path: Path):
    """Starts the script as element 2 of an array of 4, with a `galaxysd` that behaves as told."""
    (tmp_path / "bin").mkdir()

    def start(galaxysd: str) -> subprocess.Popen[str]:
        for name, text in (("galaxysd", galaxysd), ("scontrol", f'echo "$@" > {tmp_path}/scontrol')):
            (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{text}\n")
            (tmp_path / "bin" / name).chmod(0o755)
        (tmp_path / "job.sbatch").write_text(slurm.script(tmp_path / "my job", 4))
        found = {
            "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
            "SLURM_ARRAY_TASK_ID": "2",
            "SLURM_ARRAY_JOB_ID": "77",
            "SLURM_CPUS_PER_TASK": "8",
        }
        return subprocess.Popen(["bash", str(tmp_path / "job.sbatch")], env=found)

    return start


def test_a_part_that_ends(cluster, tmp_path: Path):
    assert cluster(f'echo "$@" > "{tmp_path}/said"').wait(20) == 0
    assert (tmp_path / "said").read_text().strip() == f"jobs run {tmp_path}/my job --part 2/4 --workers 8"
    assert not (tmp_path / "scontrol").exists()


def test_a_signal_stops_it_cleanly_and_it_is_queued_again(cluster, tmp_path: Path):
    started = cluster(f'trap "sleep 0.2; exit 75" TERM; touch {tmp_path}/up; while true; do sleep 0.05; done')
    end = time.monotonic() + 20
    while not (tmp_path / "up").exists() and time.monotonic() < end:
        time.sleep(0.01)
    started.send_signal(signal.SIGTERM)
    assert started.wait(20) == 75
    assert (tmp_path / "scontrol").read_text().strip() == "requeue 77_2"


def test_a_failure_is_not_queued_again(cluster, tmp_path: Path):
    assert cluster("exit 3").wait(20) == 3
    assert not (tmp_path / "scontrol").exists()


def test_the_array_has_as_many_elements_as_parts(tmp_path: Path):
    assert "#SBATCH --array=0-3\n" in slurm.script(tmp_path, 4)
