"""`galaxysd sample`: draws galaxies into a set, and pictures and FITS files beside it where asked."""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import torch

from galaxysd.data import conditions, readers, shards, transforms, writers
from galaxysd.data.conditions import Conditions
from galaxysd.data.galaxies import Galaxies
from galaxysd.diffusion.samplers import SAMPLERS
from galaxysd.errors import GalaxySDError, Stopped
from galaxysd.runlog import Progress, StopSignals
from galaxysd.sample.generate import Generator, Settings, load
from galaxysd.sample.requests import of_table, repeated

FILES_WORTH_WARNING = 10_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a run folder, a checkpoint, or a bundled name")
    parser.add_argument("--n", type=int, help="how many galaxies (16); with --like: at most this many rows of it (all)")
    asked = parser.add_mutually_exclusive_group()
    asked.add_argument("--votes", metavar="ANSWER=FRACTION,...", help="conditional vote fractions; ancestors are filled in and printed")
    asked.add_argument("--ask", metavar="WORDS", help='answers by name, for example "barred spiral, 2 arms"')
    asked.add_argument("--like", metavar="TABLE", type=Path, help="one galaxy like each row of a set or a Parquet table")
    parser.add_argument("--numbers", metavar="NAME=VALUE,...", help="redshift, magnitude, r90_pixels, psf_fwhm_pixels, sky_noise")
    parser.add_argument(
        "--voters", type=float, default=conditions.TYPICAL_VOTERS, help="how many volunteers the votes stand for (%(default)g)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="index of the first galaxy, and with --like its row (%(default)s)")
    add_settings(parser)
    parser.add_argument(
        "--guide", metavar="MODEL2", help="lead away from this smaller or earlier model, instead of from no condition (autoguidance)"
    )
    parser.add_argument("--batch", type=int, default=64, help="galaxies in flight; changes no byte (%(default)s)")
    parser.add_argument("--workers", type=int, help="threads, each drawing whole units; changes no byte (all cores)")
    parser.add_argument("--dtype", choices=("auto", "bf16", "fp32"), default="auto")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda (%(default)s)")
    parser.add_argument("--shard-rows", type=int, default=1024)
    parser.add_argument("--png", action="store_true", help="also a PNG of each galaxy, and a grid")
    parser.add_argument("--fits", action="store_true", help="also a FITS file of each galaxy")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path, help="a new folder, or the unfinished set of the same command (one in galaxies/, with --png)")


def add_settings(parser: argparse.ArgumentParser) -> None:
    """How to draw, for every verb that does: what is not given is the model's own."""
    parser.add_argument("--sampler", choices=sorted(SAMPLERS))
    parser.add_argument("--steps", type=int)
    parser.add_argument("--guidance", type=float, help="1 is none")
    parser.add_argument("--interval", type=float, nargs=2, metavar=("LOW", "HIGH"), help="noise levels between which guidance acts")


def settings_of(args: argparse.Namespace, generator: Generator) -> Settings:
    """What these options come to for a model."""
    interval = None if args.interval is None else tuple(args.interval)
    return Settings.of(generator.config.sample, sampler=args.sampler, steps=args.steps, guidance=args.guidance, interval=interval)


def run(args: argparse.Namespace) -> None:
    if args.batch < 1 or args.first < 0 or args.shard_rows < 1:
        raise GalaxySDError(f"--batch {args.batch}, --first {args.first}, --shard-rows {args.shard_rows}: at least 1, 0 and 1")
    if args.first + (args.n or 0) >= 1 << 62 or (args.workers is not None and args.workers < 1):
        raise GalaxySDError(f"--first {args.first}, --workers {args.workers}: indices end at 2^62, and at least 1 thread draws")
    if args.n is not None and args.n < 1:
        raise GalaxySDError(f"--n {args.n}: give at least 1")
    out, png = (named(args), True) if args.out is None else (args.out, args.png)
    generator = load(args.model, dtype=args.dtype, device=args.device).guided_by(args.guide)
    rows, filled = _asked(args, generator)
    for line in filled:
        print(line)
    settings = settings_of(args, generator)
    written = draw_set(
        generator, rows, out, args.seed, settings, args.first, args.batch, args.workers, args.shard_rows, png=png, fits=args.fits
    )
    print(json.dumps(written) if args.json else f"{written['rows']} galaxies in {out} ({', '.join(written['holds'])})")


def named(args: argparse.Namespace) -> Path:
    """Where galaxies go when no folder is given: after the model, what was asked for, and the seed."""
    words = args.ask or args.votes or (args.like and args.like.stem) or "any"
    asked = re.sub(r"[^a-z0-9.]+", "-", words.lower()).strip("-.")[:80]
    return Path("galaxies") / f"{Path(args.model).name}-{asked}-seed-{args.seed}"


def draw_set(
    generator: Generator,
    rows: Conditions,
    out: Path,
    seed: int,
    settings: Settings,
    first: int = 0,
    batch: int = 64,
    workers: int | None = None,
    shard_rows: int = 1024,
    *,
    png: bool = False,
    fits: bool = False,
) -> dict[str, Any]:
    """Draws one galaxy for each row of conditions into a set; an interrupted one is continued by the same call."""
    provenance = {**generator.provenance(settings, seed), "first": first, "rows": len(rows), "conditions": _fingerprint(rows)}
    index = torch.arange(first, first + len(rows))
    with StopSignals() as stop, shards.SetWriter(out, generator.frame, provenance, shard_rows) as writer:
        done = writer.done()
        picks = list(torch.arange(len(rows)).split(shard_rows))
        there = sum(len(pick) for number, pick in enumerate(picks) if number in done)  # counts as done, not as speed
        with Progress("sample", total=len(rows), done=there, unit="img") as progress:
            for number, pick in enumerate(picks):
                if number not in done:
                    parts: list[Galaxies] = []
                    for part in generator.draw(rows.rows(pick), index[pick], seed, settings, batch, workers):
                        parts.append(part)
                        progress.update(len(part))
                        if stop.requested:
                            raise Stopped(f"{out}: stopped by {stop.reason} before shard {number} was whole; the same command goes on")
                    writer.write(number, Galaxies.joined(parts))
        writer.finish()
    holds = ["a set"]
    if png or fits:
        holds += _beside(out, png, fits)
    return {"out": str(out), "rows": len(rows), "holds": holds}


def _beside(out: Path, png: bool, fits: bool) -> list[str]:
    """Writes PNG and FITS files of a finished set, by id."""
    drawn = readers.open_set(out)
    if len(drawn) > FILES_WORTH_WARNING:
        print(f"galaxysd: {len(drawn)} galaxies as single files; the set itself holds them in {len(drawn.chunk_rows)}")
    for galaxies in (drawn.load(number) for number in range(len(drawn.chunk_rows))):
        pictures = transforms.pictures(galaxies.images, drawn.frame)
        for row, name in enumerate(galaxies.ids):
            # What is there was committed whole by an interrupted run of the same command.
            if png and not (out / "png" / f"{name}.png").exists():
                writers.png(out / "png" / f"{name}.png", pictures[row])
            if fits and not (out / "fits" / f"{name}.fits").exists():
                writers.fits(out / "fits" / f"{name}.fits", galaxies, row, drawn.frame, drawn.provenance)
    if png and not (out / "grid.png").exists():
        writers.grid(out / "grid.png", transforms.pictures(drawn.read(64).images, drawn.frame), columns=8)
    return [*(["png/", "grid.png"] if png else []), *(["fits/"] if fits else [])]


def _asked(args: argparse.Namespace, generator: Generator) -> tuple[Conditions, list[str]]:
    if args.like is not None:
        wanted, filled = _like(args.like, args.voters, generator), list[str]()
        if args.first >= len(wanted):
            raise GalaxySDError(f"--first {args.first}: {args.like} has {len(wanted)} rows; the last is {len(wanted) - 1}")
        end = len(wanted) if args.n is None else min(args.first + args.n, len(wanted))
        rows = wanted.rows(torch.arange(args.first, end))
    else:
        if args.votes is not None:
            asked, filled = conditions.parse_votes(args.votes, args.voters, generator.schema)
        elif args.ask is not None:
            asked, filled = conditions.parse_ask(args.ask, args.voters, generator.schema)
        else:
            asked, filled = Conditions.unknown(1, generator.schema), []
        rows = repeated(asked, args.n or 16)
    if args.numbers is not None:
        given = conditions.parse_numbers(args.numbers)
        rows.numeric = torch.where(given.isnan(), rows.numeric, given)
    return rows, filled


def _like(path: Path, voters: float, generator: Generator) -> Conditions:
    if path.is_dir():
        found = readers.open_set(path)
        parts = [found.load(number) for number in range(len(found.chunk_rows))]
        if any(part.cond_counts is not None for part in parts):
            return conditions.asked(Galaxies.joined(parts))
        return conditions.like(Galaxies.joined(parts))
    import pyarrow
    import pyarrow.parquet

    try:
        return of_table(pyarrow.parquet.read_table(path), voters, generator.schema)
    except (OSError, pyarrow.ArrowException) as error:
        raise GalaxySDError(f"--like {path}: not a set, and not a Parquet table ({str(error).splitlines()[0]})") from error


def _fingerprint(rows: Conditions) -> str:
    return hashlib.sha256(rows.counts.numpy().tobytes() + rows.numeric.numpy().tobytes()).hexdigest()
