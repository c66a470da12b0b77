"""`galaxysd jobs run`: makes the shards that are missing, in a pool on this machine, all of them or one part of n."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from galaxysd import files
from galaxysd.errors import GalaxySDError, Mismatch, Stopped, Unavailable
from galaxysd.jobs import commits
from galaxysd.jobs import plan as plans
from galaxysd.jobs.plan import Plan
from galaxysd.jobs.pool import FAILURES, Answer, Pool
from galaxysd.runlog import Log, Progress, StopSignals

SHOWN = 5  # shards that are named in a message


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job", metavar="JOB", type=Path, help="the folder of a plan")
    parser.add_argument("--workers", type=int, help="processes (all cores; 1 on a GPU); changes no byte")
    parser.add_argument(
        "--part", default="0/1", metavar="I/N", help="every N-th shard from the I-th, counted from 0; parts run side by side"
    )
    parser.add_argument(
        "--verify", action="store_true", help="first check what is committed against its digests, and make the damaged again"
    )
    parser.add_argument("--max-bad", type=int, metavar="ROWS", help="stop a scan when more rows than these cannot be read (1 in 100)")
    parser.add_argument("--json", action="store_true")


def run(args: argparse.Namespace) -> None:
    part, parts = part_of(args.part)
    if args.workers is not None and args.workers < 1:
        raise GalaxySDError(f"--workers {args.workers}: at least 1 is needed")
    plan = plans.read(args.job)
    plans.check_environment(plan, args.job)
    workers = args.workers or ((os.cpu_count() or 1) if plan.device == "cpu" else 1)
    made = made_now(args.job, plan, part, parts, workers, args.verify, args.max_bad)
    whose = "" if parts == 1 else f" of part {part}/{parts}"
    if args.json:
        print(json.dumps({"job": str(args.job), "part": args.part, "shards": len(plan.part(part, parts)), **made}))
    else:
        print(f"{args.job}: all {len(plan.part(part, parts)):,} shards{whose} are committed, {made['made']:,} of them now")


def part_of(text: str) -> tuple[int, int]:
    """Reads "2/8"."""
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if found is None or not int(found[1]) < int(found[2]):
        raise GalaxySDError(f"--part {text}: write it like 0/4: which part, counted from 0, of how many")
    return int(found[1]), int(found[2])


@contextlib.contextmanager
def driving(folder: Path, part: int, parts: int) -> Iterator[Path]:
    """Holds this part of the job: refused while the same part, or a job cut into another number of parts, is at work."""
    mine = folder / "drivers" / f"part-{part}-of-{parts}"
    try:
        with files.held(mine):
            for other in mine.parent.iterdir():
                if not other.name.endswith(f"-of-{parts}"):
                    with files.held(other):  # nobody is there: only looked
                        pass
            yield mine
    except Mismatch as error:
        if "another process is working" not in str(error):
            raise
        raise Mismatch(
            f"{folder}: {str(error).partition(':')[0].rpartition('/')[2]} is at work in this job, and shares shards with part "
            f"{part}/{parts}; wait for it, or run other parts of the same number"
        ) from error


def made_now(folder: Path, plan: Plan, part: int, parts: int, workers: int, verify: bool, max_bad: int | None) -> dict[str, Any]:
    """Makes what is missing of a part; a part that is whole is not written to."""
    damaged = {}
    for number in sorted(set(plans.committed(folder)) & set(plan.part(part, parts))):
        if (why := commits.problem(folder, number, verify)) is not None:
            damaged[number] = why
    todo = missing(folder, plan, part, parts)
    if not todo and not damaged:
        return {"made": 0, "damaged": 0}
    plans.check_files(folder, plan)
    with driving(folder, part, parts) as mine, Log(mine / "log.jsonl") as log:
        commits.sweep(folder, part, parts)
        for number, why in damaged.items():
            commits.set_aside(folder, number)
            log.warn(f"{why}; set aside in {folder / 'damaged'}, made again")
        return {"made": _driven(folder, plan, part, parts, workers, max_bad, log), "damaged": len(damaged)}


def missing(folder: Path, plan: Plan, part: int, parts: int) -> list[int]:
    done = set(plans.committed(folder))
    return [number for number in plan.part(part, parts) if number not in done]


def quarantined(folder: Path) -> int:
    """How many rows of committed shards could not be read."""
    return sum(len(files.read_json(path)["rows"]) for path in (folder / "quarantine").glob("shard-*.json"))


def _bearable(folder: Path, bad: int, allowed: int) -> None:
    if bad > allowed:
        raise GalaxySDError(
            f"{folder}: {bad} rows could not be read, more than --max-bad {allowed}; see {folder / 'quarantine'}, and allow more or mend "
            "the set; what is committed stays"
        )


def _driven(folder: Path, plan: Plan, part: int, parts: int, workers: int, max_bad: int | None, log: Log) -> int:
    """Runs pools until nothing of the part is missing; gives how many shards were made."""
    allowed = max(1, plan.rows // 100) if max_bad is None else max_bad
    bad, made = quarantined(folder), 0
    todo = missing(folder, plan, part, parts)
    total, to_do = (sum(len(plan.span(number)) for number in numbers) for numbers in (plan.part(part, parts), todo))
    with StopSignals() as stop, Progress("jobs", total=total, done=total - to_do, unit="img") as progress:

        def told(answer: Answer) -> None:
            nonlocal bad, made
            log.write(time=time.time(), **answer)
            if answer["what"] == "done":
                made += 1
                bad += answer["bad"]
                progress.update(answer["rows"], f"{bad} unreadable" if bad else "")
                _bearable(folder, bad, allowed)

        _bearable(folder, bad, allowed)
        failed: dict[int, GalaxySDError] = {}
        while todo and not stop.requested and len(failed) < FAILURES:
            pool = Pool(folder, plan, workers, told)
            pool.run(todo, stop)
            failed |= pool.failed
            todo = [number for number in missing(folder, plan, part, parts) if number not in failed]
    if failed:
        shown = "; ".join(str(each) for each in list(failed.values())[:SHOWN])
        kind = Unavailable if all(isinstance(each, Unavailable) for each in failed.values()) else GalaxySDError
        rest = f"; {len(todo)} more were not tried" if todo else ""
        made_of = f"{len(failed)} of {len(plan.part(part, parts))} shards could not be made"
        raise kind(f"{folder}: {made_of}: {shown}{rest}; the same command tries again")
    if stop.requested and todo:
        raise Stopped(f"{folder}: stopped by {stop.reason} with {len(todo):,} shards to go; the same command goes on")
    return made
