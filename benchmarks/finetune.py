"""`python -m benchmarks finetune`: fine-tuning on a few galaxies of a new class, one setting changed at a time, beside training anew.

The class is a table of latents outside every range of the `survey` population: discs in a bright ring far outside them. A row says how
near the galaxies drawn for it come to held-out ones of the class (Frechet distance and coverage in the judge's embedding, beside two
halves of those), how near to the ones trained on (1 is as far as those lie from each other), and what is left of the classes that the
model knew. A row is appended when an arm ends; what has a row is not trained again, and what was stopped goes on. `--report` prints the
table from the rows alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import classes, rows
from benchmarks.choice import chosen
from benchmarks.rows import Row
from galaxysd import seeds
from galaxysd.data.mixed import Kept
from galaxysd.data.schema import with_class
from galaxysd.diffusion.denoiser import resolve_device
from galaxysd.errors import BadInput
from galaxysd.evaluate import conditional, distances, features, memorisation
from galaxysd.evaluate.report import table
from galaxysd.model.classifier import Judge, load_judge
from galaxysd.runlog import StopSignals
from galaxysd.sample.generate import Settings, load
from galaxysd.simulate import recipe as recipes
from galaxysd.simulate.recipe import Recipe
from galaxysd.simulate.survey import SimulatedSource
from galaxysd.train import finetune
from galaxysd.train.denoise import DenoiseTask
from galaxysd.train.loop import train

FILE = rows.RESULTS / "finetune.jsonl"
NAME = "great-ring"
# What makes the class: lows and highs, each beyond what `survey` draws.
LATENTS: dict[str, tuple[float, float]] = {"ring": (0.9, 1.4), "ring_radius": (1.1, 1.35), "bulge": (0.66, 0.8)}
REST: dict[str, Any] = {"kind": "disc", "arms": 0, "arm_count": 0, "bar": 0, "merger": 0, "disturbed": 0, "lens": 0, "other": 0}
TABLE_SEED, SAMPLE_SEED, HELD_OUT_SEED = 91, 0, 20_000


@dataclass(frozen=True)
class Arm:
    """One way to train."""

    name: str
    change: str
    settings: tuple[str, ...] = ()
    rehearsal: float = 0.5
    anew: bool = False


ARMS = (
    Arm("base", "as `train --from` does it"),
    Arm("slower", "learning rate 5e-5", ("train.learning_rate=5e-5",)),
    Arm("faster", "learning rate 1e-3", ("train.learning_rate=1e-3",)),
    Arm("conditions", "only embedding and modulation are trained", ("train.only=['embedding', 'modulation']",)),
    Arm("no-rehearsal", "nothing is rehearsed", (), 0.0),
    Arm("less-rehearsal", "0.2 of a batch is rehearsed", (), 0.2),
    Arm("faster-less-rehearsal", "learning rate 1e-3, 0.2 of a batch is rehearsed", ("train.learning_rate=1e-3",), 0.2),
    Arm("more-rehearsal", "0.8 of a batch is rehearsed", (), 0.8),
    Arm("anew", "from drawn weights, the same galaxies and images", ("train.learning_rate=1e-3",), 0.5, True),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="demo-32", help="what is tuned: a run folder, a checkpoint, or a bundled name (demo-32)")
    parser.add_argument("--only", action="append", metavar="NAME", help=f"one of {', '.join(arm.name for arm in ARMS)}; may be repeated")
    parser.add_argument("--images", type=int, default=20_000, help="training images of each arm (20000)")
    parser.add_argument("--mine", type=int, default=60, help="galaxies of the new class to train on (60)")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=V", help="a setting of every arm, the base included")
    parser.add_argument("--n", type=int, default=200, help="galaxies drawn of the new class (200)")
    parser.add_argument("--known", type=int, default=25, help="galaxies drawn of each class that the model knew (25)")
    parser.add_argument("--held-out", type=int, default=400, help="held-out galaxies of the new class (400)")
    parser.add_argument("--population", default="atlas", help="the classes that the model knew, held out (atlas)")
    parser.add_argument("--judged", type=int, default=4096, help="galaxies of it that the judge's own rate is measured on (4096)")
    parser.add_argument("--device", default="cuda" if rows.device() == "cuda" else "cpu")
    parser.add_argument("--runs", type=Path, default=Path("runs/finetune"), metavar="FOLDER", help="the trainings (runs/finetune)")
    parser.add_argument("--results", type=Path, default=FILE, metavar="FILE", help="the rows (benchmarks/results/finetune.jsonl)")
    parser.add_argument("--report", action="store_true", help="print the table of the rows there are, as Markdown; train nothing")


def run(args: argparse.Namespace) -> int:
    if args.report:
        print("\n".join(report(rows.read(args.results))))
        return 0
    if min(args.images, args.mine, args.n, args.known, args.held_out, args.judged) < 1:
        raise BadInput(f"--images {args.images}, --mine {args.mine}, --n {args.n}, --known {args.known}: at least 1 each")
    arms = chosen(ARMS, args.only, "--only", "arm")
    start, judge = finetune.start(args.model), load_judge()
    kept: Row | None = None
    for arm in arms:
        about = identity(args, arm, start, judge)
        if about["digest"] in {row["digest"] for row in rows.read(args.results)}:
            print(f"{arm.name}: has its row already", flush=True)
            continue
        kept = kept or known(args, start.name, judge)
        row = measure(args, arm, start, judge, about) | {"mean_ratio_before": kept["mean_ratio"]}
        rows.append(args.results, row)
        print(f"{arm.name}: {row['frechet']['value']:.2f} from the class (halves {row['frechet']['floor']:.2f})", flush=True)
    return 0


def great_rings(first: int, n: int, size: int) -> SimulatedSource:
    """Galaxies first .. first + n of the new class; the same latents whoever asks."""
    draws = seeds.uniform(TABLE_SEED, "great-rings", range(first + n), (len(LATENTS),)).tolist()
    columns = {name: [low + (high - low) * row[k] for row in draws] for k, (name, (low, high)) in enumerate(LATENTS.items())}
    fixed = recipes.fixed(REST)
    given = recipes.tabled("atlas", columns, fixed=fixed, pose="aligned").given
    return SimulatedSource(Recipe("atlas", pose="aligned", given=given, fixed=fixed), TABLE_SEED, first, n, size)


def identity(args: argparse.Namespace, arm: Arm, start: finetune.Start, judge: Judge) -> Row:
    """What a row is of, and the digest that names it."""
    about = {
        "arm": arm.name,
        "change": arm.change,
        "model": start.found.config.name,
        "images": args.images,
        "named": {
            "model_sha256": start.source.digest.sha256,
            "judge": judge.digest.sha256,
            "images": args.images,
            "mine": args.mine,
            "settings": [*args.set, *arm.settings],
            "rehearsal": arm.rehearsal,
            "anew": arm.anew,
            "latents": LATENTS,
            "score": [args.n, args.known, args.held_out, args.population, args.judged],
            "device": args.device,
        },
    }  # fmt: skip
    return about | {"digest": hashlib.sha256(json.dumps(about["named"], sort_keys=True).encode()).hexdigest()}


def measure(args: argparse.Namespace, arm: Arm, start: finetune.Start, judge: Judge, about: Row) -> Row:
    """Trains an arm, or goes on, and scores it."""
    size, device = start.found.config.model.image_size, resolve_device(args.device)
    settings = [f"train.images={args.images}", "train.grid_minutes=0", *args.set, *arm.settings]
    config = finetune.config(start, None, settings, NAME, {"images": args.images})
    name = with_class(start.found.labels, NAME).name
    mine = Kept(great_rings(0, args.mine, size))
    source = finetune.mixture(mine, finetune.simulated(start, size), arm.rehearsal, name, NAME)
    weights, origin = (None, None) if arm.anew else (finetune.weights(start, name), start.origin())
    task = DenoiseTask(config, source.frame, start.found.stretch, device, weights, origin)
    with StopSignals() as stop:
        result = train(task, source, args.runs / f"{arm.name}-{about['digest'][:8]}", stop)
    generator = load(result.checkpoint, device=device)
    drawn = generator.sample(NAME, args.n, seed=SAMPLE_SEED).galaxies
    real = great_rings(args.mine, args.held_out, size)
    held = torch.cat([judge.embed(each, real.frame) for each in features.stream(real)])
    sides = judge.embed(drawn, generator.frame), held
    frechet = distances.beside(distances.frechet, *sides, SAMPLE_SEED)
    cover = distances.beside(distances.density_coverage, *sides, SAMPLE_SEED, worse=("low", "low"))
    if frechet is None or cover is None:
        raise BadInput(
            f"--n {args.n}, --held-out {args.held_out}: too few galaxies to compare; give at least {distances.LEAST} and twice that"
        )
    watch = finetune.Watch(mine, NAME)
    near = memorisation.nearest(features.coarse(drawn.images, generator.frame, watch.soft), [(watch.pixels, watch.ids)])
    kept = known(args, result.checkpoint, judge)
    return {
        "kind": "finetune",
        **rows.provenance(),
        **about,
        "config": config.to_json(),
        "img_per_s": round(result.images / result.seconds, 1),
        "cpu_seconds": round(result.spent.cpu_seconds, 1),
        "frechet": frechet[0].to_json(),
        "coverage": cover[1].to_json(),
        "nearest_over_apart": float(near.distance.median()) / watch.apart,
        "copies": int((near.distance < memorisation.SUSPECT * watch.apart).sum()),
        "mean_ratio": kept["mean_ratio"],
    }


def known(args: argparse.Namespace, model: str | Path, judge: Judge) -> Row:
    """How often the classes that a model knew are found, as `benchmarks classes` counts."""
    generator = load(model, device=args.device)
    wanted, frame = list(conditional.CLASSES), generator.frame
    held = SimulatedSource(Recipe(args.population, pose="aligned"), HELD_OUT_SEED, 0, args.judged, frame.size)
    drawn = classes.draw(generator, wanted, args.known, SAMPLE_SEED, Settings.of(generator.config.sample))
    described = classes.described(drawn, replace(frame, schema=judge.frame.schema), judge)
    plain = len(judge.frame.labels.answers)  # without the new class, of which the judge knows nothing
    if described.cond_counts is not None:
        described = replace(described, counts=described.counts[:, :plain], cond_counts=described.cond_counts[:, :plain])
    return classes.score(described, classes.held_out(held, judge), wanted, args.known, SAMPLE_SEED)


def report(found: list[Row]) -> Iterator[str]:
    """Markdown: a table for each model, length and machine."""
    mine = list({row["digest"]: row for row in found if row["kind"] == "finetune"}.values())
    if not mine:
        yield "Not measured yet: `python -m benchmarks finetune` appends a row for each arm."
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in mine:
        groups.setdefault((row["model"], row["named"]["model_sha256"], row["images"], row["named"]["mine"], row["card"]), []).append(row)
    for (model, digest, images, count, card), group in groups.items():
        commits = sorted({row["commit"][:9] for row in group})
        yield f"`{model}` ({digest[:8]}) on {count} galaxies of the new class, {images} images; {card}; commit {', '.join(commits)}."
        yield ""
        order = {arm.name: place for place, arm in enumerate(ARMS)}
        yield from table(
            ["arm", "what is different", "Frechet (halves)", "coverage (halves)", "nearest over apart", "copies", "classes kept (before)"],
            [
                [
                    row["arm"], row["change"], f"{row['frechet']['value']:.2f} ({row['frechet']['floor']:.2f})",
                    f"{row['coverage']['value']:.2f} ({row['coverage']['floor']:.2f})", f"{row['nearest_over_apart']:.2f}",
                    f"{row['copies']} of {row['named']['score'][0]}", f"{_number(row['mean_ratio'])} ({_number(row['mean_ratio_before'])})",
                ]
                for row in sorted(group, key=lambda row: order.get(row["arm"], len(order)))
            ],
        )  # fmt: skip
        yield ""


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
