"""`python -m benchmarks classes MODEL`: whether a model draws what it is asked for, class by class, as the judge sees it.

Each class is asked for by its answer alone, with the guidance the model ships with. Beside each rate stands the judge's own on
held-out simulated galaxies of another seed at the model's resolution (how often it gives the answer that most volunteers gave), and
the ratio of the two. Coverage is of those held-out galaxies, in the mix of classes asked for, in the judge's embedding, beside two of
their halves.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import rows
from galaxysd import files
from galaxysd.data import conditions, transforms, writers
from galaxysd.data.conditions import Conditions
from galaxysd.data.galaxies import Frame, Galaxies
from galaxysd.errors import BadInput
from galaxysd.evaluate import conditional, distances
from galaxysd.evaluate.features import Described, Rows, comparable, stream
from galaxysd.evaluate.intervals import Rate, ratio
from galaxysd.evaluate.report import table
from galaxysd.model.classifier import JUDGE, Judge, load_judge
from galaxysd.runlog import Progress
from galaxysd.sample.generate import Generator, Settings, load
from galaxysd.sample.requests import requested
from galaxysd.simulate.survey import SimulatedSource
from galaxysd.train.render import rendered

EVERY = conditional.CLASSES | conditional.REPORTED
SHOWN = 16  # galaxies in a row of the sheet
SPACE_SPLITS = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a run folder, a checkpoint, or a bundled name")
    parser.add_argument("--n", type=int, default=200, help="galaxies of each class (200)")
    parser.add_argument("--population", default="atlas", help="of the held-out galaxies (atlas)")
    parser.add_argument("--held-out", type=int, default=4096, help="how many of them (4096)")
    parser.add_argument("--held-out-seed", type=int, default=20_000, help="their seed, which no training used (20000)")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="render them once, by every core, into this folder")
    parser.add_argument("--guidance", type=float, help="another than the model's own")
    parser.add_argument(
        "--fraction", type=float, default=conditions.ASKED, help="of volunteers who are asked to give the answer (%(default)g)"
    )
    parser.add_argument("--guide", metavar="MODEL2", help="a worse model to lead away from, instead of from no condition")
    parser.add_argument("--seed", type=int, default=0, help="seed of the generated galaxies (0)")
    parser.add_argument("--judge", default=JUDGE, help="a classifier (%(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda (auto)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="also classes.json and classes.png, a row a class; a new folder")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def run(args: argparse.Namespace) -> int:
    if min(args.n, args.held_out) < 1:
        raise BadInput(f"--n {args.n}, --held-out {args.held_out}: at least 1 galaxy of each")
    if not 0 < args.fraction <= 1:
        raise BadInput(f"--fraction {args.fraction:g}: of volunteers; more than 0 and at most 1")
    if args.out is not None:
        files.new_folder(args.out)  # said before anything is drawn
    generator, judge = load(args.model, device=args.device).guided_by(args.guide), load_judge(args.judge)
    settings = Settings.of(generator.config.sample, guidance=args.guidance)
    real = sky(generator, judge, args.population, args.held_out, args.held_out_seed, args.keep)
    began = time.monotonic()
    drawn = draw(generator, EVERY, args.n, args.seed, settings, args.fraction)
    seconds = time.monotonic() - began
    found = rows.provenance() | {
        "model": str(generator.config.name),
        "model_sha256": generator.digest.sha256,
        "judge": judge.path.stem,
        "judge_sha256": judge.digest.sha256,
        "population": args.population,
        "held_out": {"n": args.held_out, "seed": args.held_out_seed, "size": generator.frame.size},
        "n": args.n,
        "seed": args.seed,
        "settings": {
            "sampler": settings.sampler,
            "steps": settings.steps,
            "guidance": settings.guidance,
            "interval": list(settings.interval),
            **({} if args.fraction == conditions.ASKED else {"fraction": args.fraction}),
            **({} if generator.guide is None else {"guide_sha256": generator.guide.digest.sha256}),
        },
        "precision": generator.provenance(settings, args.seed)["precision"],
        "img_per_s": round(len(drawn) / seconds, 2),
        **score(described(drawn, generator.frame, judge), real, list(EVERY), args.n, args.seed),
    }
    if args.out is not None:
        with files.filled(args.out) as folder:
            sheet(folder / "classes.png", drawn, generator.frame, args.n)
            files.commit_json(folder / "classes.json", found)
    print(json.dumps(found, indent=1, allow_nan=False) if args.json else "\n".join(words(found)))
    return 0


def sky(generator: Generator, judge: Judge, population: str, n: int, seed: int, keep: Path | None) -> Described:
    """Held-out simulated galaxies like the model's own, judged; rendered once into the folder `keep` where one is given."""
    unseen(generator, population, seed)
    source = SimulatedSource(population, seed, 0, n, generator.frame.size)
    comparable(generator.frame, source.frame, ("the model's galaxies", f"the population {population}"))
    where = f"{population}-{seed}-{generator.frame.size}"
    return held_out(source if keep is None else rendered(source, keep / where), judge)


def unseen(generator: Generator, population: str, seed: int) -> None:
    """Refuses to hold out what the model was trained on."""
    about = generator.trained_on
    for each in about.get("mixed", [about]):
        if each.get("simulated") == population and each.get("seed") == seed:
            raise BadInput(f"--held-out-seed {seed}: {generator.path} was trained on {population} of this very seed; give another one")


def held_out(source: Rows, judge: Judge) -> Described:
    """The galaxies of a source, judged; their pictures are let go."""
    parts = []
    with Progress("held-out galaxies", total=sum(source.chunk_rows)) as progress:
        for galaxies in stream(source):
            parts.append(described(galaxies, source.frame, judge))
            progress.update(len(galaxies))
    return joined(parts)


def draw(
    generator: Generator, classes: Iterable[str], n: int, seed: int, settings: Settings, fraction: float = conditions.ASKED
) -> Galaxies:
    """n galaxies of each class, one class after the other, each asked for by its answer at this fraction."""
    asked = [requested(f"{EVERY[name]}={fraction}", n, conditions.TYPICAL_VOTERS, generator.schema)[0] for name in classes]
    every = Conditions(torch.cat([each.counts for each in asked]), torch.cat([each.numeric for each in asked]))
    parts = []
    with Progress("sample", total=len(every)) as progress:
        for part in generator.draw(every, torch.arange(len(every)), seed, settings):
            parts.append(part)
            progress.update(len(part))
    return Galaxies.joined(parts)


def described(galaxies: Galaxies, stamps: Frame, judge: Judge) -> Described:
    """What the judge says of galaxies, without their pictures."""
    none = torch.empty(len(galaxies), 0)
    found = judge.fractions(galaxies, stamps), judge.embed(galaxies, stamps)
    of = galaxies
    return Described(stamps, of.ids, of.counts, of.numeric, of.cond_counts, of.cond_numeric, {}, none, *found)


def joined(parts: list[Described]) -> Described:
    """Held-out galaxies in one."""

    def every(name: str) -> Any:
        return torch.cat([getattr(part, name) for part in parts])

    ids = [each for part in parts for each in part.ids]
    return Described(
        parts[0].frame, ids, every("counts"), every("numeric"), None, None, {}, every("pixels"), every("fractions"), every("embedding")
    )


def score(drawn: Described, real: Described, classes: list[str], n: int, seed: int) -> dict[str, Any]:
    """Rates and ratios by class, their mean over those that count, and coverage; row k * n of `drawn` is the first of class k."""
    schema = drawn.schema
    assert drawn.fractions is not None
    assert real.fractions is not None
    seen, judged, own = (schema.winners(each) for each in (drawn.fractions, real.fractions, real.counts))
    by: dict[str, Any] = {}
    for k, name in enumerate(classes):
        column = schema.index(EVERY[name])
        mine = Rate(int(seen[k * n : (k + 1) * n, column].sum()), n)
        judges = Rate(int((judged[:, column] & own[:, column]).sum()), int(own[:, column].sum()))
        counted = name in conditional.CLASSES
        by[name] = {
            "answer": EVERY[name],
            "counted": counted,
            "found": mine.to_json(),
            "judge": judges.to_json(),
            "ratio": ratio(mine, judges),
        }
    ratios = [each["ratio"]["ratio"] for each in by.values() if each["counted"] and each["ratio"]["ratio"] is not None]
    return {
        "classes": by,
        "mean_ratio": sum(ratios) / len(ratios) if ratios else None,
        "mean_over": len(ratios),
        "lowest_ratio": min(ratios, default=None),
        "coverage": coverage(drawn, real, classes, n, seed),
    }


def coverage(drawn: Described, real: Described, classes: list[str], n: int, seed: int) -> dict[str, Any] | None:
    """Of the classes that count and that both sides have; None with too few rows."""
    both = sides(drawn, real, classes, n, seed)
    if both is None:
        return None
    found = distances.beside(distances.density_coverage, *both, seed, splits=SPACE_SPLITS, most=distances.KNN_ROWS, worse=("low", "low"))
    return found[1].to_json() if found else None


def sides(drawn: Described, real: Described, classes: list[str], n: int, seed: int) -> tuple[Tensor, Tensor] | None:
    """The judge's embedding of what was drawn and of held-out galaxies in that mix; None where they lack one of it."""
    own = real.schema.winners(real.counts)
    both = [name in conditional.CLASSES and int(own[:, real.schema.index(EVERY[name])].sum()) >= distances.LEAST for name in classes]
    pick = torch.tensor(both).repeat_interleave(n).nonzero().flatten()
    if not len(pick):
        return None
    assert drawn.cond_counts is not None
    assert drawn.embedding is not None
    assert real.embedding is not None
    asked = Described(
        drawn.frame, [drawn.ids[row] for row in pick.tolist()], drawn.counts[pick], drawn.numeric[pick], drawn.cond_counts[pick], None, {},
        drawn.pixels[pick], None, None,
    )  # fmt: skip
    mixed = conditional.same_mix(asked, real, seed)
    return None if mixed is None else (drawn.embedding[pick], real.embedding[mixed])


def sheet(path: Path, drawn: Galaxies, stamps: Frame, n: int) -> None:
    """The first galaxies of each class, a row a class; nothing is picked."""
    columns = min(SHOWN, n)
    first = (torch.arange(len(EVERY))[:, None] * n + torch.arange(columns)).flatten()
    pictures = transforms.pictures(drawn.images[first], stamps)
    zoom = max(1, 64 // stamps.size)
    writers.grid(path, pictures.repeat_interleave(zoom, 1).repeat_interleave(zoom, 2), columns, labels=list(EVERY))


def words(found: dict[str, Any]) -> list[str]:
    """The figures to read: Markdown."""
    how, real = found["settings"], found["held_out"]
    guide = f" away from the model {how['guide_sha256'][:12]}" if "guide_sha256" in how else ""
    asked = f", asked for at {how['fraction']:g}" if "fraction" in how else ""
    lines = [
        f"{found['n']} galaxies of each class by {found['model']} ({how['sampler']}, {how['steps']} steps, guidance {how['guidance']:g}"
        f"{guide}{asked}, {found['precision']}), judged by {found['judge']} beside {real['n']} held-out galaxies of "
        f"`{found['population']}` (seed {real['seed']}, {real['size']} px). Square brackets are 95 % intervals.",
        "",
    ]
    body = []
    for name, each in found["classes"].items():
        span = each["ratio"]
        shown = "–" if span["ratio"] is None else f"{span['ratio']:.2f} [{_end(span['low'])}, {_end(span['high'])}]"
        body.append([name if each["counted"] else f"{name} (reported)", _rate(each["found"]), _rate(each["judge"]), shown])
    lines += table(["class", "found", "judge's own rate", "ratio"], body)
    mean, cover = found["mean_ratio"], found["coverage"]
    lines += [
        "",
        "No class has a ratio."
        if mean is None
        else f"Mean ratio over {found['mean_over']} classes: {mean:.2f}; lowest {found['lowest_ratio']:.2f}.",
    ]
    if cover is None:
        lines.append("Coverage: too few held-out galaxies in the mix that was asked for.")
    else:
        span = f"{cover['floor']:.2f} [{cover['floor_range'][0]:.2f}, {cover['floor_range'][1]:.2f}]"
        lines.append(f"Coverage in the judge's embedding: {cover['value']:.2f}; two held-out halves {span} (N {cover['rows']} a side).")
    return lines


def _rate(each: dict[str, Any]) -> str:
    if each["rate"] is None:
        return "no rows"
    return f"{each['rate']:.2f} [{each['interval'][0]:.2f}, {each['interval'][1]:.2f}] of {each['rows']}"


def _end(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
