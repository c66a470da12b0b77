"""`galaxysd jobs status`: how far a job is, from its records and logs; reads, and never writes."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from galaxysd import runlog
from galaxysd.jobs import plan as plans
from galaxysd.jobs.plan import Plan
from galaxysd.runlog import duration

WINDOW = 600.0  # seconds back over which the rate is taken
SHOWN = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job", metavar="JOB", type=Path)
    parser.add_argument("--json", action="store_true")


def run(args: argparse.Namespace) -> None:
    found = status(args.job, plans.read(args.job), time.time())
    print(json.dumps(found) if args.json else _words(found))


def status(folder: Path, plan: Plan, now: float) -> dict[str, Any]:
    """What is done, how fast, what is left, and what has gone wrong."""
    done = set(plans.committed(folder))
    rate = 0.0
    slowest: list[tuple[float, int]] = []
    failed: dict[int, str] = {}
    deaths = unreadable = 0
    for log in sorted((folder / "drivers").glob("part-*/log.jsonl")):
        mine = runlog.read(log)
        rate += _rate(mine, now)
        for row in mine:
            what, number = row.get("what"), int(row.get("shard", -1))
            if what == "done":
                slowest = sorted([*slowest, (row["seconds"], number)], reverse=True)[:SHOWN]
                unreadable += row["bad"]
            elif what == "failed" and number not in done:
                failed[number] = row["reason"]
            elif what == "died":
                deaths += 1
    left = plan.rows - sum(len(plan.span(number)) for number in done)
    return {
        "job": str(folder),
        "kind": plan.kind,
        "rows": plan.rows,
        "rows_done": plan.rows - left,
        "shards": plan.shards,
        "shards_done": len(done),
        "finalized": (folder / "manifest.json").exists(),
        "rate": rate,
        "seconds_left": left / rate if rate and left else None,
        "slowest": [{"shard": number, "seconds": seconds} for seconds, number in slowest],
        "failed": {str(number): reason for number, reason in sorted(failed.items())},
        "worker_deaths": deaths,
        "unreadable_rows": unreadable,
    }


def _rate(rows: list[dict[str, Any]], now: float) -> float:
    """Galaxies a second of one part over the last while; 0 where it has been quiet."""
    recent = [row for row in rows if row.get("what") == "done" and row["time"] > now - WINDOW]
    if not recent:
        return 0.0
    began = min(row["time"] - row["seconds"] for row in recent)
    ended = max(now, *(row["time"] for row in recent))  # a clock may have been set back
    return sum(row["rows"] for row in recent) / max(ended - began, 1e-3)


def _words(found: dict[str, Any]) -> str:
    share = found["rows_done"] / found["rows"]
    lines = [
        f"{found['job']}: {found['rows_done']:,} of {found['rows']:,} galaxies ({share:.1%}), "
        f"{found['shards_done']:,} of {found['shards']:,} shards" + (", finalized" if found["finalized"] else "")
    ]
    if found["seconds_left"] is not None:
        lines.append(f"{found['rate']:,.3g} galaxies/s over the last minutes, {duration(found['seconds_left'])} left")
    if found["slowest"]:
        lines.append("slowest shards: " + ", ".join(f"{each['shard']} ({duration(each['seconds'])})" for each in found["slowest"]))
    if found["worker_deaths"]:
        lines.append(f"workers that died and were replaced: {found['worker_deaths']}")
    if found["unreadable_rows"]:
        lines.append(f"rows that could not be read: {found['unreadable_rows']} (quarantine/)")
    lines += [f"failed: {reason}" for reason in found["failed"].values()]
    return "\n".join(lines)
