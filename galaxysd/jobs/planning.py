"""`galaxysd jobs plan`: writes the plan of a job, after a short probe has said what the job will cost."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from galaxysd import files
from galaxysd.data import conditions, layout, readers, shards
from galaxysd.data.galaxies import NUMERIC, Frame, Galaxies
from galaxysd.errors import GalaxySDError, Stopped
from galaxysd.jobs import conditions as tables
from galaxysd.jobs import plan as plans
from galaxysd.jobs import scanning, slurm
from galaxysd.jobs.plan import Plan
from galaxysd.jobs.sampling import Sampler, described_name
from galaxysd.jobs.scanning import Scanner
from galaxysd.model.classifier import JUDGE, load_judge
from galaxysd.runlog import duration
from galaxysd.sample.command import add_settings, settings_of
from galaxysd.sample.generate import PRECISIONS, Generator, load

LONG_SHARD = 1800.0  # seconds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="sample|scan")
    sample = kinds.add_parser("sample", help="draw galaxies")
    sample.add_argument("model", metavar="MODEL", help="a run folder, a checkpoint, or a bundled name; it is copied into the job")
    sample.add_argument("--n", type=int, help="how many galaxies; with --like, all its rows unless told otherwise")
    asked = sample.add_mutually_exclusive_group()
    asked.add_argument("--votes", metavar="ANSWER=FRACTION,...", help="conditional vote fractions, the same for each galaxy")
    asked.add_argument("--ask", metavar="WORDS", help='answers by name, for example "barred spiral, 2 arms"')
    asked.add_argument("--like", metavar="TABLE", type=Path, help="like the rows of a set or a Parquet table, over and over until --n")
    asked.add_argument("--balance", metavar="QUESTION|ANSWERS", help="equal counts of a question's answers, or of those named")
    asked.add_argument("--sweep", metavar="ANSWER", help="its fraction from 0 to 1 in eleven steps, over and over")
    sample.add_argument("--numbers", metavar="NAME=VALUE,...", help="redshift, magnitude, r90_pixels, psf_fwhm_pixels, sky_noise")
    sample.add_argument("--voters", type=float, default=conditions.TYPICAL_VOTERS, help="how many volunteers votes stand for (%(default)g)")
    sample.add_argument("--seed", type=int, default=0)
    sample.add_argument("--store", choices=plans.STORES, default="pixels", help="whole galaxies, or what draws them again (%(default)s)")
    sample.add_argument("--shard-rows", type=int, help="galaxies a shard (about 384 MB, and 64 shards or more)")
    add_settings(sample)
    sample.add_argument("--guide", metavar="MODEL2", help="lead away from this model; it is copied into the job")
    sample.add_argument("--dtype", choices=("auto", "bf16", "fp32"), default="auto")
    sample.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    scan = kinds.add_parser("scan", help="let a classifier look at every galaxy of a set")
    scan.add_argument(
        "model", metavar="CLASSIFIER", nargs="?", default=JUDGE, help="a run folder, a checkpoint, a bundled name (%(default)s)"
    )
    scan.add_argument("--data", metavar="SET", type=Path, required=True, help="the set to look at")
    for each in (sample, scan):
        each.add_argument(
            "--probe", type=float, default=20.0, metavar="SECONDS", help="how long to try what it costs; 0: not (%(default)g)"
        )
        each.add_argument("--slurm", type=int, metavar="PARTS", help="also write job.sbatch, an array of so many parts")
        each.add_argument("--json", action="store_true")
        each.add_argument("--out", type=Path, required=True, metavar="JOB", help="a new folder")


def run(args: argparse.Namespace) -> None:
    if not 0 <= args.probe < math.inf or (args.slurm is not None and args.slurm < 1):
        raise GalaxySDError(f"--probe {args.probe}, --slurm {args.slurm}: seconds of at least 0, and at least 1 part")
    with files.filled(args.out) as inside:
        plan, row_bytes = (_sample if args.kind == "sample" else _scan)(args, inside)
        if args.slurm is not None:
            text = slurm.script(args.out.resolve(), args.slurm)
            files.commit(inside / "job.sbatch", lambda file: file.write(text.encode()))
        rate = _probe(inside, plan, args.probe) if args.probe else None
        plans.write(inside, plan)
    found = budget(plan, row_bytes, rate)
    print(json.dumps({"out": str(args.out), **found}) if args.json else _words(args.out, plan, found))


def _sample(args: argparse.Namespace, inside: Path) -> tuple[Plan, float]:
    generator = load(args.model, dtype=args.dtype, device=args.device).guided_by(args.guide)
    settings = settings_of(args, generator)
    numbers = None if args.numbers is None else conditions.parse_numbers(args.numbers)
    pieces, filled = _asked(args, generator)
    for line in filled if not args.json else ():
        print(line)
    table, rows = tables.write(inside / plans.CONDITIONS, pieces, generator.schema, numbers)
    n = rows if args.n is None and args.like is not None else args.n
    if n is None:
        raise GalaxySDError("--n: say how many galaxies")
    unit, row_bytes = generator.config.sample.unit, _row_bytes(generator.frame, args.store)
    shard_rows = args.shard_rows or plans.default_shard_rows(n, row_bytes, unit)
    count = plans.shard_count(n, shard_rows, unit)
    made_by = {"made_by": "galaxysd jobs", "rows": n, "conditions": table.sha256, "trained_on": generator.trained_on}
    about = shards.description(generator.frame, {**generator.provenance(settings, args.seed), **made_by}, shard_rows)
    plan = Plan(
        kind="sample",
        rows=n,
        shards=count,
        shard_rows=shard_rows,
        unit=unit,
        model_name=generator.config.name,
        model=_copied(generator.path, inside / plans.MODEL),
        device=generator.device.type,
        environment=plans.environment(generator.device.type),
        seed=args.seed,
        store=args.store,
        precision=PRECISIONS[generator.denoiser.dtype],
        settings=asdict(settings),
        config=generator.config.to_json(),
        guide=None if generator.guide is None else _copied(generator.guide.path, inside / plans.GUIDE),
        conditions=table,
        asked=next((f"--{name} {value}" for name in ("votes", "ask", "like", "balance", "sweep") if (value := getattr(args, name))), "any"),
        described=files.commit_json(inside / described_name(args.store), about),
    )
    return plan, row_bytes


def _asked(args: argparse.Namespace, generator: Generator) -> tuple[Iterator[conditions.Conditions], list[str]]:
    labels, voters = generator.schema, args.voters
    if args.like is not None:
        return tables.of_file(args.like, voters, labels), []
    if args.balance is not None:
        return iter([tables.balanced(args.balance, voters, labels)]), []
    if args.sweep is not None:
        return iter([tables.swept(args.sweep, voters, labels)]), []
    if args.votes is not None:
        row, filled = conditions.parse_votes(args.votes, voters, labels)
    elif args.ask is not None:
        row, filled = conditions.parse_ask(args.ask, voters, labels)
    else:
        row, filled = conditions.Conditions.unknown(1, labels), []
    return iter([row]), filled


def _scan(args: argparse.Namespace, inside: Path) -> tuple[Plan, float]:
    judge, data = load_judge(args.model), readers.open_set(args.data)
    judge.prepare(torch.zeros(1, *layout.image_shape(data.frame), dtype=layout.DTYPES[data.frame.kind][1]), data.frame)  # do they agree?
    plan = Plan(
        kind="scan",
        rows=len(data),
        shards=len(data.chunk_rows),
        shard_rows=max(data.chunk_rows),
        unit=scanning.UNIT,
        model_name=judge.config.name,
        model=_copied(judge.path, inside / plans.MODEL),
        device="cpu",
        environment=plans.environment("cpu"),
        config=judge.config.to_json(),
        data=str(args.data.resolve()),
        manifest=files.digest(args.data / "manifest.json"),
    )
    return plan, 4.0 * (len(scanning.COLUMNS) * len(judge.labels.answers) + judge.config.model.cond_width)


def _copied(path: Path, into: Path) -> files.Digest:
    """A copy beside the plan: the job stays whole when the model moves or learns on."""
    with path.open("rb") as source:
        return files.commit(into, lambda file: shutil.copyfileobj(source, file))


def _row_bytes(frame: Frame, store: str) -> float:
    """What a galaxy takes on disk, from a shard of blank ones."""
    n, answers = 256, len(frame.labels.answers)
    images = torch.zeros(n, *layout.image_shape(frame), dtype=layout.DTYPES[frame.kind][1])
    nothing = torch.full((n, len(NUMERIC)), math.nan)
    blank = Galaxies(
        images,
        torch.zeros(n, answers),
        nothing,
        torch.arange(n),
        [f"gen-{'0' * 12}-0-{i:09d}" for i in range(n)],
        torch.zeros(n, answers),
        nothing,
    )
    file = io.BytesIO()
    shards.put_table(layout.encode(blank, frame, {"is_synthetic": True, "seed": 0}, "budget", pixels=store == "pixels"), file)
    return file.tell() / n


def _probe(folder: Path, plan: Plan, seconds: float) -> float | None:
    """Galaxies a second of one worker, from working on the job's first shard for a while; None where nothing is computed."""
    if plan.store == "recipe":
        return None
    work = Sampler(folder, plan) if plan.kind == "sample" else Scanner(folder, plan)
    done, began = 0, time.monotonic()

    def go_on(galaxies: int) -> None:
        nonlocal done
        done += galaxies
        if time.monotonic() - began >= seconds:
            raise Stopped("the probe has seen enough")

    with contextlib.suppress(Stopped):
        for number in range(plan.shards):
            work.make(number, go_on)
    return done / (time.monotonic() - began)


def budget(plan: Plan, row_bytes: float, rate: float | None) -> dict[str, Any]:
    """What the job will take: time of one worker (a core, or a GPU), bytes and files."""
    found = {
        "plan": plan.sha256,
        "kind": plan.kind,
        "rows": plan.rows,
        "shards": plan.shards,
        "shard_rows": plan.shard_rows,
        "files": 2 * plan.shards,
        "bytes": round(row_bytes * plan.rows),
        "rate": rate,
    }
    if rate is not None:
        found |= {"worker_hours": plan.rows / rate / 3600, "shard_seconds": plan.shard_rows / rate}
    return found


def _words(out: Path, plan: Plan, found: dict[str, Any]) -> str:
    size = found["bytes"]
    amount = next(
        f"{size / 10**power:.3g} {unit}" for power, unit in ((12, "TB"), (9, "GB"), (6, "MB"), (3, "kB"), (0, "bytes")) if size >= 10**power
    )
    lines = [f"{plan.rows:,} galaxies in {plan.shards:,} shards of {plan.shard_rows:,}: about {amount} in {found['files']:,} files"]
    if found["rate"] is not None:
        worker = "core" if plan.device == "cpu" else "GPU"
        lines.append(
            f"{found['rate']:.3g} galaxies a second on one {worker}: {found['worker_hours']:,.3g} {worker} hours, "
            f"{duration(found['shard_seconds'])} a shard"
        )
        if found["shard_seconds"] > LONG_SHARD:
            lines.append("a worker that is stopped drops the shard in hand: lower --shard-rows to lose less")
    lines.append(f"planned: {out}; galaxysd jobs run {out} --workers N does it")
    return "\n".join(lines)
