"""The batch script that runs a job as a Slurm array: a part an element, stopped cleanly before its time is up, and queued again."""

from __future__ import annotations

import shlex
from pathlib import Path


def script(job: Path, parts: int) -> str:
    """The text of job.sbatch; time, partition and account are given on sbatch's command line."""
    folder = shlex.quote(str(job))
    return f"""#!/bin/bash
#SBATCH --job-name={shlex.quote(f"galaxysd-{job.name}")}
#SBATCH --array=0-{parts - 1}
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@120
#SBATCH --output={shlex.quote(f"{job}/slurm-%a.log")}
# Give time, memory, partition and account where you send it: sbatch --time=8:00:00 --cpus-per-task=16 {folder}/job.sbatch
galaxysd jobs run {folder} --part "$SLURM_ARRAY_TASK_ID/{parts}" --workers "${{SLURM_CPUS_PER_TASK:-1}}" &
child=$!
trap 'kill -TERM $child' TERM
wait $child; code=$?
# A wait that a signal has cut short says so; what counts is how the work ended.
while [ $code -gt 128 ] && kill -0 $child 2>/dev/null; do wait $child; code=$?; done
if [ $code -eq 75 ]; then scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID"; fi
exit $code
"""
