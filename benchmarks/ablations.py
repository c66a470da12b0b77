"""`python -m benchmarks ablations`: the preset of demo-32 with one thing changed at a time, each trained for the same images and scored.

The score is the mean, over the classes of `benchmarks classes`, of the share of the judge's own rate at which a requested class is found.
A row is appended when an arm ends, with a digest of its config, data and score: what has a row is not trained again, and what was stopped
goes on from its checkpoint. `--report` prints the table from the rows alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import classes, rows
from benchmarks.choice import chosen
from benchmarks.rows import Row
from galaxysd import checkpoint
from galaxysd import config as configs
from galaxysd.config import Config
from galaxysd.diffusion.denoiser import resolve_device
from galaxysd.errors import BadInput, Stopped
from galaxysd.evaluate import conditional
from galaxysd.evaluate.report import table
from galaxysd.model.classifier import load_judge
from galaxysd.runlog import StopSignals
from galaxysd.sample.generate import Settings, load
from galaxysd.simulate.recipe import Recipe
from galaxysd.simulate.survey import SimulatedSource
from galaxysd.train.command import fit_stretch
from galaxysd.train.denoise import DenoiseTask
from galaxysd.train.loop import Piece, train
from galaxysd.train.plan import plan
from galaxysd.train.render import rendered

FILE = rows.RESULTS / "ablations.jsonl"
TRAIN_SEED, HELD_OUT_SEED, SAMPLE_SEED = 1, 20_000, 0


@dataclass(frozen=True)
class Arm:
    """One change of the preset."""

    name: str
    factor: str
    change: str
    settings: tuple[str, ...] = ()
    pose: str = "aligned"


# Attention stays on the coarsest maps where the unshuffle moves them: it is not the factor there.
ARMS = (
    Arm("base", "-", "as it is: ln sigma ~ N(-0.4, 1.4^2), unshuffle 2, attention at 8, aligned"),
    Arm("edm-noise", "noise law", "N(-1.2, 1.2^2), EDM's own", ("diffusion.p_mean=-1.2", "diffusion.p_std=1.2")),
    Arm("less-noise", "noise law", "N(-0.8, 1.4^2)", ("diffusion.p_mean=-0.8",)),
    Arm("more-noise", "noise law", "N(0.0, 1.4^2)", ("diffusion.p_mean=0.0",)),
    Arm("unshuffle-1", "pixel-unshuffle", "1: maps of 32 and 16", ("model.unshuffle=1", "model.attention=[16]")),
    Arm("unshuffle-4", "pixel-unshuffle", "4: maps of 8 and 4", ("model.unshuffle=4", "model.attention=[4]")),
    Arm("no-attention", "attention", "none", ("model.attention=[]",)),
    Arm("attention-8-16", "attention", "at 8 and 16", ("model.attention=[8, 16]",)),
    Arm("random-angles", "pose alignment", "major axes at random angles, every symmetry of the square", ("train.aligned=false",), "random"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", action="append", metavar="NAME", help=f"one of {', '.join(arm.name for arm in ARMS)}; may be repeated")
    parser.add_argument("--images", type=int, default=100_000, help="training images of each arm (100000)")
    parser.add_argument("--seeds", type=int, default=2, help="trainings of each arm (2)")
    parser.add_argument("--preset", default="demo-32", help="what is changed one thing at a time (demo-32)")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=V", help="a setting of every arm, the base included")
    parser.add_argument("--population", default="atlas", help="simulated galaxies to train on and to hold out (atlas)")
    parser.add_argument("--pool", type=int, default=16_384, help="galaxies to train on (16384)")
    parser.add_argument("--n", type=int, default=50, help="generated galaxies of each class (50)")
    parser.add_argument("--held-out", type=int, default=4096, help="galaxies the judge's own rate is measured on (4096)")
    parser.add_argument("--piece", type=float, default=0.0, metavar="MINUTES", help="stop after so many minutes; the same command goes on")
    parser.add_argument("--device", default="cuda" if rows.device() == "cuda" else "cpu")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/ablations"), metavar="FOLDER", help="trainings and galaxies (runs/ablations)"
    )
    parser.add_argument("--results", type=Path, default=FILE, metavar="FILE", help="the rows (benchmarks/results/ablations.jsonl)")
    parser.add_argument("--report", action="store_true", help="print the table of the rows there are, as Markdown; train nothing")


def run(args: argparse.Namespace) -> int:
    if args.report:
        print("\n".join(report(rows.read(args.results))))
        return 0
    if min(args.images, args.seeds, args.pool, args.n, args.held_out) < 1:
        raise BadInput(f"--images {args.images}, --seeds {args.seeds}, --pool {args.pool}, --n {args.n}: at least 1 each")
    arms, whole = chosen(ARMS, args.only, "--only", "arm"), Piece(args.piece)
    for arm, seed in [(arm, seed) for seed in range(args.seeds) for arm in arms]:
        if whole.over:
            raise Stopped(f"{args.runs}: a piece of {args.piece:g} minutes is over before arm {arm.name}; the same command goes on there")
        config = arm_config(args, arm, seed)
        about = identity(args, arm, config)
        known = {row["digest"] for row in rows.read(args.results)}
        if about["digest"] in known:
            print(f"{arm.name}, seed {seed}: has its row already", flush=True)
            continue
        left = max(1e-9, args.piece - (time.monotonic() - whole.began) / 60) if args.piece else 0.0
        row = measure(args, arm, config, about, Piece(left))
        rows.append(args.results, row)
        print(f"{arm.name}, seed {seed}: mean ratio {row['mean_ratio']:.3f}, {row['img_per_s']:.0f} img/s", flush=True)
    return 0


def arm_config(args: argparse.Namespace, arm: Arm, seed: int) -> Config:
    """The preset with --set, then the arm's one change: the length is in images, so that the schedule is the same on any machine."""
    fixed = [f"train.images={args.images}", f"train.seed={seed}", "train.steps=0", "train.minutes=0"]
    return configs.load(args.preset, None, [*args.set, *arm.settings, *fixed])


def identity(args: argparse.Namespace, arm: Arm, config: Config) -> Row:
    """What a row is of, and the digest that names it."""
    judge = load_judge().digest.sha256
    about = {
        "arm": arm.name,
        "factor": arm.factor,
        "change": arm.change,
        "images": args.images,
        "seed": config.train.seed,
        "config": config.to_json(),
        "data": {"population": args.population, "pose": arm.pose, "n": args.pool, "seed": TRAIN_SEED},
        "score": {"n": args.n, "seed": SAMPLE_SEED, "held_out": args.held_out, "held_out_seed": HELD_OUT_SEED, "judge": judge},
        "trained_on_device": args.device,
    }  # fmt: skip
    named = {name: about[name] for name in ("config", "data", "score", "trained_on_device")}
    return about | {"digest": hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()}


def galaxies(population: str, pose: str, seed: int, n: int, size: int) -> SimulatedSource:
    """Simulated galaxies with their major axes along +x, or at random angles."""
    return SimulatedSource(Recipe(population, pose=pose), seed, 0, n, size)


def measure(args: argparse.Namespace, arm: Arm, config: Config, about: Row, piece: Piece) -> Row:
    """Trains an arm, or goes on, and scores it."""
    size, device = config.model.image_size, resolve_device(args.device)
    pool = galaxies(args.population, arm.pose, TRAIN_SEED, args.pool, size)
    real = galaxies(args.population, arm.pose, HELD_OUT_SEED, args.held_out, size)
    source, held = (rendered(each, args.runs / f"{args.population}-{arm.pose}-{each.seed}-{size}", piece) for each in (pool, real))
    task = DenoiseTask(config, source.frame, fit_stretch(source, config), device)
    with StopSignals() as stop:
        result = train(task, source, args.runs / f"{arm.name}-{config.train.seed}-{about['digest'][:8]}", stop, piece=piece)
    judge, generator = load_judge(), load(result.checkpoint, device=device)
    drawn = classes.draw(generator, conditional.CLASSES, args.n, SAMPLE_SEED, Settings.of(config.sample))
    found = classes.score(
        classes.described(drawn, generator.frame, judge),
        classes.held_out(held, judge),
        list(conditional.CLASSES),
        args.n,
        SAMPLE_SEED,
    )
    if found["mean_ratio"] is None:
        raise BadInput(f"--population {args.population}: none of the classes is among its held-out galaxies, so nothing can be scored")
    cover = found["coverage"]
    return {
        "kind": "ablation",
        **rows.provenance(),
        **about,
        "parameters": plan(config, device)["parameters"],
        "gflop_train_per_image": plan(config, device)["gflop_train_per_image"],
        "img_per_s": round(result.images / result.seconds, 1),
        "cpu_seconds": round(result.spent.cpu_seconds, 1),
        "mean_ratio": found["mean_ratio"],
        "mean_over": found["mean_over"],
        "coverage": None if cover is None else {name: cover[name] for name in ("value", "floor", "rows")},
        "classes": {name: {key: each[key] for key in ("found", "judge", "ratio")} for name, each in found["classes"].items()},
        "model_sha256": checkpoint.verify(result.checkpoint)["files"]["model"]["sha256"],
    }


def report(found: list[Row]) -> Iterator[str]:
    """Markdown: a table for each length and machine, each arm beside the base of the same."""
    mine = list({row["digest"]: row for row in found if row["kind"] == "ablation"}.values())
    if not mine:
        yield "Not measured yet: `python -m benchmarks ablations` appends a row for each arm and seed."
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in mine:
        groups.setdefault((row["config"]["name"], row["data"]["population"], row["images"], row["score"]["n"], row["card"]), []).append(row)
    for (preset, population, images, n, card), group in groups.items():
        versions, commits = group[-1]["machine"]["versions"], sorted({row["commit"][:9] for row in group})
        what = f"`{preset}` on {group[-1]['data']['n']} galaxies of `{population}`, {images} training images, {n} drawn of each class"
        yield f"{what}; {card}, torch {versions.get('torch')}; commit {', '.join(commits)}."
        yield ""
        yield from table(
            ["factor", "change", "parameters", "GFLOP an image", "img/s", "mean ratio, by seed", "over the base", "coverage"],
            [line for arm in ARMS if (line := _line(arm, group)) is not None],
        )
        yield ""


def _line(arm: Arm, group: list[Row]) -> list[str] | None:
    mine = sorted((row for row in group if row["arm"] == arm.name), key=lambda row: row["seed"])
    if not mine:
        return None
    base = {row["seed"]: row["mean_ratio"] for row in group if row["arm"] == "base"}
    # Of the same seed: the same galaxies in the same order, the same noise.
    gains = [row["mean_ratio"] - base[row["seed"]] for row in mine if row["seed"] in base]
    covers = [f"{row['coverage']['value']:.2f}" for row in mine if row["coverage"] is not None]
    return [
        arm.factor,
        arm.change,
        f"{mine[0]['parameters'] / 1e6:.2f} M",
        f"{mine[0]['gflop_train_per_image']:.2f}",
        f"{sum(row['img_per_s'] for row in mine) / len(mine):.0f}",
        ", ".join(f"{row['mean_ratio']:.3f}" for row in mine),
        "–" if arm.name == "base" or not gains else ", ".join(f"{gain:+.3f}" for gain in gains),
        ", ".join(covers) or "–",
    ]
