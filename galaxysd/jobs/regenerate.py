"""`galaxysd jobs regenerate`: any galaxies of a sample once more, with the same bytes, into a set of their own."""

from __future__ import annotations

import argparse
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path

import torch

from galaxysd.data import shards
from galaxysd.data.galaxies import Galaxies
from galaxysd.errors import GalaxySDError, Stopped
from galaxysd.jobs import plan as plans
from galaxysd.jobs.plan import Plan
from galaxysd.jobs.sampling import Sampler
from galaxysd.runlog import Progress, StopSignals

SHARD_ROWS = 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job", metavar="JOB", type=Path, help="the folder of a sample, whole or not")
    parser.add_argument("--rows", required=True, metavar="I,A-B,...", help="which galaxies, by index; ranges hold both their ends")
    parser.add_argument("--out", type=Path, required=True, metavar="SET", help="a new folder, or the unfinished set of the same command")
    parser.add_argument("--json", action="store_true")


def run(args: argparse.Namespace) -> None:
    plan = plans.read(args.job)
    wanted = spans(args.rows, plan.rows)
    plans.check_environment(plan, args.job)
    rows = regenerated(args.job, plan, wanted, args.rows, args.out)
    print(json.dumps({"out": str(args.out), "rows": rows}) if args.json else f"{rows:,} galaxies of {args.job} in {args.out}")


def spans(text: str, rows: int) -> list[range]:
    """Reads "777,900-910" into rising ranges that do not overlap."""
    found = []
    for item in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,18})(?:-(\d{1,18}))?\s*", item)
        if match is None:
            raise GalaxySDError(f"--rows {item!r}: write indices and ranges like 777,900-910")
        first, last = int(match[1]), int(match[2] or match[1])
        if not first <= last < rows:
            raise GalaxySDError(f"--rows {item.strip()}: this job has the galaxies 0 to {rows - 1}; a range rises")
        found.append(range(first, last + 1))
    found.sort(key=lambda each: each.start)
    for one, other in itertools.pairwise(found):
        if other.start < one.stop:
            raise GalaxySDError(f"--rows {text}: galaxy {other.start} is asked for twice")
    return found


def _pieces(wanted: list[range]) -> Iterator[torch.Tensor]:
    """Indices, a shard at a time."""
    held: list[torch.Tensor] = []
    room = SHARD_ROWS
    for each in wanted:
        at = each.start
        while at < each.stop:
            taken = min(room, each.stop - at)
            held.append(torch.arange(at, at + taken))
            at, room = at + taken, room - taken
            if not room:
                yield torch.cat(held)
                held, room = [], SHARD_ROWS
    if held:
        yield torch.cat(held)


def regenerated(folder: Path, plan: Plan, wanted: list[range], text: str, out: Path) -> int:
    """Draws the galaxies into a set at `out`; gives how many."""
    sampler, rows = Sampler(folder, plan), sum(map(len, wanted))
    provenance = {**sampler.recipe.about["provenance"], "rows": rows, "regenerated": text, "plan": plan.sha256}
    with StopSignals() as stop, shards.SetWriter(out, sampler.recipe.frame, provenance, SHARD_ROWS) as writer:
        done = writer.done()
        with Progress("regenerate", total=rows) as progress:
            for number, index in enumerate(_pieces(wanted)):
                if number not in done:
                    parts: list[Galaxies] = []
                    for part in sampler.draw(index):
                        parts.append(part)
                        if stop.requested:
                            raise Stopped(f"{out}: stopped by {stop.reason} before shard {number} was whole; the same command goes on")
                    writer.write(number, Galaxies.joined(parts))
                progress.update(len(index))
        writer.finish()
    return rows
