"""`python -m benchmarks steps MODEL`: what fewer evaluations cost a model: solvers, numbers of steps and guidance intervals.

Each point draws the classes of `benchmarks classes` from the same noise and is judged by the mean ratio to the judge's own rates,
coverage, and the Frechet distance in the judge's embedding, the last two beside held-out halves. Its cost is passes of the network: an
evaluation inside the guidance interval takes two, with a guide one of each network. A row is appended when a point ends; what has a row
is not drawn again. `--report` and `--plot` follow from the rows alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import classes, curve, rows
from benchmarks.choice import chosen
from benchmarks.rows import Row
from galaxysd.config import Config
from galaxysd.diffusion.guidance import Guided
from galaxysd.diffusion.samplers import EVALUATIONS, levels, solve
from galaxysd.errors import BadInput, Stopped
from galaxysd.evaluate import conditional, distances
from galaxysd.evaluate.features import Described
from galaxysd.evaluate.report import table
from galaxysd.model.classifier import JUDGE, Judge, load_judge
from galaxysd.sample.generate import Generator, Settings, load
from galaxysd.train.loop import Piece

FILE = rows.RESULTS / "steps.jsonl"
OWN = "own"
# Noise levels between which guidance acts; the model's own stand in its config, and no level is above sigma_max.
INTERVALS: dict[str, tuple[float, float] | None] = {OWN: None, "always": (0.0, math.inf), "middle": (0.2, 5.0), "never": None}
# Steps of 4 to 35 evaluations; heun takes two a step, but the last.
STEPS = {"euler": (4, 6, 8, 12, 18, 25, 35), "dpmpp_2m": (4, 6, 8, 12, 18, 25, 35), "heun": (3, 4, 5, 7, 9, 13, 18)}
OTHER_INTERVALS = {"dpmpp_2m": (8, 18), "heun": (5, 9)}


@dataclass(frozen=True)
class Point:
    """A way of drawing."""

    solver: str
    steps: int
    interval: str = OWN

    @property
    def evaluations(self) -> int:
        return EVALUATIONS[self.solver](self.steps)

    @property
    def name(self) -> str:
        return f"{self.solver}-{self.evaluations}" + ("" if self.interval == OWN else f"-{self.interval}")

    def settings(self, config: Config, guidance: float | None) -> Settings:
        """How it draws from a model of this config."""
        interval = INTERVALS[self.interval]
        if interval is not None:
            interval = (interval[0], min(interval[1], config.diffusion.sigma_max))
        strength = 1.0 if self.interval == "never" else guidance
        return Settings.of(config.sample, sampler=self.solver, steps=self.steps, guidance=strength, interval=interval)


POINTS = (
    *(Point(solver, each) for solver, every in STEPS.items() for each in every),
    *(Point(solver, each, name) for name in INTERVALS if name != OWN for solver, every in OTHER_INTERVALS.items() for each in every),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", nargs="?", help="a run folder, a checkpoint, or a bundled name")
    parser.add_argument("--points", nargs="+", metavar="NAME", help=f"some of {', '.join(point.name for point in POINTS)} (all)")
    parser.add_argument("--n", type=int, default=50, help="galaxies of each class (50)")
    parser.add_argument("--guidance", type=float, help="another strength than the model's own")
    parser.add_argument("--guide", metavar="MODEL2", help="a worse model to lead away from, instead of from no condition")
    parser.add_argument("--population", default="atlas", help="of the held-out galaxies (atlas)")
    parser.add_argument("--held-out", type=int, default=4096, help="how many of them (4096)")
    parser.add_argument("--held-out-seed", type=int, default=20_000, help="their seed, which no training used (20000)")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="render them once, by every core, into this folder")
    parser.add_argument("--seed", type=int, default=0, help="seed of the generated galaxies (0)")
    parser.add_argument("--judge", default=JUDGE, help="a classifier (%(default)s)")
    parser.add_argument(
        "--piece", type=float, default=0.0, metavar="MINUTES", help="begin no point after so long; the same command goes on"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda (auto)")
    parser.add_argument("--results", type=Path, default=FILE, metavar="FILE", help="the rows (benchmarks/results/steps.jsonl)")
    parser.add_argument("--report", action="store_true", help="print the table of the rows there are, as Markdown; draw no galaxy")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the curve of the rows there are, and no galaxy")


def run(args: argparse.Namespace) -> int:
    if args.report or args.plot is not None:
        found = groups(rows.read(args.results))
        if args.report:
            print("\n".join(report(found)))
        for path in curve.plots(list(found.values()), args.plot) if args.plot is not None else ():
            print(f"drawn: {path}")
        return 0
    if args.model is None:
        raise BadInput("MODEL: none given; give a run folder, a checkpoint or a bundled name, or --report for the rows there are")
    if min(args.n, args.held_out) < 1:
        raise BadInput(f"--n {args.n}, --held-out {args.held_out}: at least 1 galaxy of each")
    wanted, piece = chosen(POINTS, args.points, "--points", "point"), Piece(args.piece)
    generator, judge = load(args.model, device=args.device).guided_by(args.guide), load_judge(args.judge)
    known = {row["digest"] for row in rows.read(args.results)}
    due = []
    for point in wanted:
        about = identity(args, point, generator, judge)
        if about["digest"] in known:
            print(f"{point.name}: has its row already", flush=True)
        else:
            due.append((point, about))
    if not due:
        return 0
    real = classes.sky(generator, judge, args.population, args.held_out, args.held_out_seed, args.keep)
    for number, (point, about) in enumerate(due):
        if number and piece.over:
            raise Stopped(f"{args.results}: a piece of {args.piece:g} minutes is over before point {point.name}; the same command goes on")
        row = measure(args, point, about, generator, judge, real)
        rows.append(args.results, row)
        print(f"{point.name}: mean ratio {row['mean_ratio']:.3f}, {row['passes']} passes, {row['img_per_s']:g} img/s", flush=True)
    return 0


def identity(args: argparse.Namespace, point: Point, generator: Generator, judge: Judge) -> Row:
    """What a row is of, and the digest that names it."""
    settings = point.settings(generator.config, args.guidance)
    drawn = generator.provenance(settings, args.seed)
    about = {
        "model_sha256": generator.digest.sha256,
        "guide_sha256": None if generator.guide is None else generator.guide.digest.sha256,
        "settings": {name: drawn[name] for name in ("sampler", "steps", "guidance", "interval", "precision", "seed")},
        "score": {
            "n": args.n,
            "judge_sha256": judge.digest.sha256,
            "population": args.population,
            "held_out": args.held_out,
            "held_out_seed": args.held_out_seed,
        },
        "drawn_on_device": generator.device.type,
    }
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    return {"point": point.name, "model": generator.config.name, **about, "interval_name": point.interval, "digest": digest}


def passes(settings: Settings, config: Config) -> int:
    """How often the network sees an image on its way: counted, not worked out."""
    seen = 0

    def count(x: Tensor, sigma: Tensor, features: Tensor) -> Tensor:
        nonlocal seen
        seen += len(x)
        return x

    denoise = Guided(count, torch.zeros(1, 1), settings.guidance, settings.interval)
    solve(settings.sampler, denoise, torch.zeros(1, 1, 1, 1), levels(config.diffusion, settings.steps), denoise.acts)
    return seen


def measure(args: argparse.Namespace, point: Point, about: Row, generator: Generator, judge: Judge, real: Described) -> Row:
    """Draws a point and scores it."""
    settings, names = point.settings(generator.config, args.guidance), list(conditional.CLASSES)
    began = time.monotonic()
    drawn = classes.draw(generator, names, args.n, args.seed, settings)
    seconds = time.monotonic() - began
    seen = classes.described(drawn, generator.frame, judge)
    found = classes.score(seen, real, names, args.n, args.seed)
    if found["mean_ratio"] is None:
        raise BadInput(f"--population {args.population}: none of the classes is among its held-out galaxies, so nothing can be scored")
    both = classes.sides(seen, real, names, args.n, args.seed)
    beside = None if both is None else distances.beside(distances.frechet, *both, args.seed, splits=classes.SPACE_SPLITS)
    return {
        "kind": "steps",
        **rows.provenance(),
        **about,
        "evaluations": point.evaluations,
        "passes": passes(settings, generator.config),
        "img_per_s": round(len(drawn) / seconds, 3),
        "mean_ratio": found["mean_ratio"],
        "margin": margin(found["classes"]),
        "mean_over": found["mean_over"],
        "lowest_ratio": found["lowest_ratio"],
        "coverage": found["coverage"],
        "frechet": None if beside is None else beside[0].to_json(),
        "classes": {name: {key: each[key] for key in ("found", "judge", "ratio")} for name, each in found["classes"].items()},
    }


def margin(by: dict[str, Any]) -> float:
    """Half the 95 % interval of the mean ratio, from the galaxies drawn: the judge's own rates are the same for all points."""
    among = [(each["found"], each["judge"]["rate"]) for each in by.values() if each["ratio"]["ratio"] is not None]
    variance = 0.0
    for found, own in among:
        share = (found["hits"] + 2) / (found["rows"] + 4)  # no certainty from few
        variance += share * (1 - share) / found["rows"] / own**2
    return 1.96 * math.sqrt(variance) / len(among)


def groups(found: list[Row]) -> dict[tuple[Any, ...], list[Row]]:
    """The newest row of each point, by what can be compared: a model, its judges and sizes, precision and machine."""
    by: dict[tuple[Any, ...], list[Row]] = {}
    for row in {row["digest"]: row for row in found if row["kind"] == "steps"}.values():
        how = row["settings"]["precision"], row["settings"]["seed"]
        by.setdefault((row["model_sha256"], row["guide_sha256"], json.dumps(row["score"], sort_keys=True), *how, row["card"]), []).append(
            row
        )
    return {key: sorted(group, key=lambda row: (row["interval_name"] != OWN, row["passes"])) for key, group in by.items()}


def report(found: dict[tuple[Any, ...], list[Row]]) -> Iterator[str]:
    """Markdown: a table for each model and machine, from the cheapest to the dearest."""
    if not found:
        yield "Not measured yet: `python -m benchmarks steps MODEL` appends a row for each point."
    for group in found.values():
        last, commits = group[-1], sorted({row["commit"][:9] for row in group})
        score, versions = last["score"], last["machine"]["versions"]
        led = f" led away from {last['guide_sha256'][:12]}" if last["guide_sha256"] else ""
        yield (
            f"`{last['model']}` ({last['model_sha256'][:12]}){led}, "
            f"{score['n']} galaxies of each of {last['mean_over']} classes a point, in "
            f"{last['settings']['precision']}; {score['held_out']} held-out galaxies of `{score['population']}`; {last['card']}, torch "
            f"{versions.get('torch')}; commit {', '.join(commits)}."
        )
        yield ""
        for what in ("coverage", "frechet"):
            if last[what] is not None:
                low, high = last[what]["floor_range"]
                floor = f"{last[what]['floor']:.3g} [{low:.3g}, {high:.3g}] (N {last[what]['rows']} a side)"
                yield f"Two held-out halves: {what} {floor}."
        yield ""
        head = ["solver", "steps", "evaluations", "passes", "guidance", "mean ratio", "lowest", "coverage", "Frechet", "img/s"]
        yield from table(head, [_line(row) for row in group])
        yield ""


def _line(row: Row) -> list[str]:
    how = row["settings"]
    low, high = how["interval"]
    return [
        how["sampler"],
        str(how["steps"]),
        str(row["evaluations"]),
        str(row["passes"]),
        "none" if how["guidance"] == 1 else f"{how['guidance']:g} in {low:g} to {high:g}",
        f"{row['mean_ratio']:.3f} ± {row['margin']:.3f}",
        f"{row['lowest_ratio']:.2f}",
        *("–" if row[what] is None else f"{row[what]['value']:.3g}" for what in ("coverage", "frechet")),
        f"{row['img_per_s']:.3g}",
    ]
