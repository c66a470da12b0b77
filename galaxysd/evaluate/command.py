"""`galaxysd evaluate SET --against DATA --out REPORT`: what a generated set is worth, measured on galaxies nobody trained on."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from galaxysd import __version__, files
from galaxysd.data.readers import open_set
from galaxysd.errors import BadInput, GalaxySDError
from galaxysd.evaluate import conditional, distances, features, memorisation, morphology, report
from galaxysd.evaluate.features import Described, Judge, Rows

NO_JUDGE = "no judge"
SPACE_SIDE = 8  # pixels on a side of the model-free feature space
SPACE_SPLITS = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `galaxysd evaluate`."""
    parser.add_argument("set", type=Path, metavar="SET", help="the generated set")
    parser.add_argument("--against", type=Path, required=True, metavar="DATA", help="a held-out set that no model was trained on")
    parser.add_argument("--train", type=Path, metavar="DATA", help="the training set, to look for copies in")
    parser.add_argument("--out", type=Path, required=True, metavar="REPORT", help="the folder of the report, new or empty")
    parser.add_argument(
        "--limit", type=int, default=10_000, help="look at no more rows of each set than this, a seeded sample (default 10000)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of samples, splits and shuffles (default 0)")
    parser.add_argument("--json", action="store_true", help="print the whole report as JSON")


def run(args: argparse.Namespace) -> int:
    """Evaluates, writes the report, says what it found."""
    if args.limit < 1:
        raise GalaxySDError(f"--limit: {args.limit} rows; must be at least 1")
    generated, held_out = open_set(args.set), open_set(args.against)
    train = open_set(args.train) if args.train is not None else None
    with files.filled(args.out) as folder:
        judge, why = find_judge()
        evaluation = evaluate(
            generated,
            held_out,
            train,
            judge,
            why_no_judge=why,
            names=(str(args.set), str(args.against), str(args.train) if args.train is not None else None),
            limit=args.limit,
            seed=args.seed,
        )
        written = report.write(folder, evaluation)
    if args.json:
        print(json.dumps(evaluation.findings, indent=1, allow_nan=False))
    else:
        print("\n".join(evaluation.findings["verdict"]))
        print(f"wrote {len(written)} files to {args.out}; read {args.out / 'report.md'}")
    return 0


def find_judge() -> tuple[Judge | None, str]:
    """The judge that ships, or none and the reason."""
    try:
        from galaxysd.model import classifier
    except ImportError as error:
        if error.name not in ("galaxysd.model", "galaxysd.model.classifier"):
            raise
        return None, NO_JUDGE
    try:
        return classifier.load_judge(), ""
    except GalaxySDError as error:
        return None, f"{NO_JUDGE} ({error})"


def evaluate(
    generated: Rows,
    held_out: Rows,
    train: Rows | None = None,
    judge: Judge | None = None,
    *,
    why_no_judge: str = NO_JUDGE,
    names: tuple[str, str, str | None] = ("generated", "held-out", None),
    limit: int | None = None,
    seed: int = 0,
) -> report.Evaluation:
    """Measures a generated set against a held-out one; with `train`, also looks for copies of training galaxies."""
    features.comparable(generated.frame, held_out.frame, (names[0], names[1]))
    missing: dict[str, str] = {}
    refused = features.refusal(judge, held_out) if judge is not None else None
    if refused is not None:
        judge, why_no_judge = None, refused
    soft = features.softening(held_out, seed)
    real = features.describe(held_out, soft, judge, limit, seed)
    new = features.describe(generated, soft, judge, limit, seed)
    features.unshared(new.ids, real.ids, (names[0], names[1]))
    mixed = conditional.same_mix(new, real, seed)
    compared = real if mixed is None else _rows(real, mixed)
    if judge is None:
        missing["classes, vote fractions and the judge's embedding"] = why_no_judge
    classes = conditional.agreement(new, real, seed)
    if classes is None and judge is not None:
        missing["requested classes"] = f"no row asks for {', '.join(conditional.CLASSES)}"
    flux = conditional.flux_ratio(new, real, seed)
    if flux is None:
        missing["flux at the requested magnitude"] = (
            "display colour is relative only" if new.frame.kind == "rgb" else "too few rows with a requested and a held-out magnitude"
        )
    copies, nearest = None, None
    if train is None:
        missing["nearest training galaxies"] = "no training set was given (--train DATA)"
    else:
        features.comparable(train.frame, held_out.frame, (names[2] or "train", names[1]))
        nearest = _nearest(new, real, train, soft, (names[2] or "train", names[1]))
        copies = memorisation.compare(*nearest, new.ids)
    findings: dict[str, Any] = {
        "galaxysd": __version__,
        "set": names[0],
        "against": names[1],
        "train": names[2],
        "seed": seed,
        "frame": new.frame.to_json(),
        "rows": {
            "generated": len(new),
            "held_out": len(real),
            "generated_set": sum(generated.chunk_rows),
            "held_out_set": sum(held_out.chunk_rows),
        },
        "compared_with": (
            f"Distributions are compared with all {len(real)} held-out rows."
            if mixed is None
            else f"Distributions are compared with {len(compared)} of {len(real)} held-out rows, in the mix of classes that was asked for."
        ),
        "classes": classes,
        "fractions": conditional.fractions(new, real),
        "flux_ratio": flux,
        "distributions": properties(new, compared, seed),
        "spaces": spaces(new, compared, seed, missing),
        "memorisation": copies,
        "not_measured": missing,
    }
    findings["verdict"] = report.verdict(findings)
    return report.Evaluation(findings, new, compared, nearest)


def properties(new: Described, real: Described, seed: int) -> dict[str, Any]:
    """Wasserstein-1 of every property beside its floor, medians, and how many rows could not be measured."""
    table = {}
    for name in new.properties:
        mine, theirs = (of.properties[name][of.properties[name].isfinite()] for of in (new, real))
        w1 = distances.beside(distances.wasserstein, mine, theirs, seed)
        table[name] = {
            "unit": morphology.unit(name, new.frame),
            "wasserstein": w1[0].to_json() if w1 else None,
            "median": {"generated": _median(mine), "held_out": _median(theirs)},
            "not_measured": {"generated": len(new) - len(mine), "held_out": len(real) - len(theirs)},
        }
    return table


def _median(values: Tensor) -> float | None:
    return float(values.double().quantile(0.5)) if len(values) else None


def spaces(new: Described, real: Described, seed: int, missing: dict[str, str]) -> dict[str, Any]:
    """Coverage and density in every feature space, and the Frechet distance where a mean and a covariance describe it."""
    table: dict[str, Any] = {}
    for name, (mine, theirs, frechet) in _spaces(new, real).items():
        whole = mine.isfinite().all(1), theirs.isfinite().all(1)
        mine, theirs = mine[whole[0]], theirs[whole[1]]
        counted = distances.beside(
            distances.density_coverage, mine, theirs, seed, splits=SPACE_SPLITS, most=distances.KNN_ROWS, worse=("low", "low")
        )
        if counted is None:
            missing[f"coverage in {name}"] = f"{len(mine)} generated and {len(theirs)} held-out rows are too few"
            continue
        table[name] = {
            "density": counted[0].to_json(),
            "coverage": counted[1].to_json(),
            "rows_left_out": {"generated": int((~whole[0]).sum()), "held_out": int((~whole[1]).sum())},
        }
        if frechet:
            distance = distances.beside(distances.frechet, mine, theirs, seed, splits=SPACE_SPLITS)
            table[name]["frechet"] = distance[0].to_json() if distance else None
    return table


def _spaces(new: Described, real: Described) -> dict[str, tuple[Tensor, Tensor, bool]]:
    names = [name for name in new.properties if name.split("_")[0] in ("magnitude", "colour", "r50", "concentration", "ellipticity")]
    mine, theirs = (torch.stack([of.properties[name] for name in names], 1) for of in (new, real))
    middle = theirs.nanmedian(0).values
    spread = (theirs - middle).abs().nanmedian(0).values.clamp_min(1e-6)
    found = {
        "measured properties": ((mine - middle) / spread, (theirs - middle) / spread, False),
        "coarse pixels": (*(adaptive_avg_pool2d(of.pixels, SPACE_SIDE).flatten(1) for of in (new, real)), False),
    }
    if new.embedding is not None and real.embedding is not None:
        found["the judge's embedding"] = (new.embedding, real.embedding, True)
    return found  # type: ignore[return-value]


def _nearest(
    new: Described, real: Described, train: Rows, soft: Tensor, names: tuple[str, str]
) -> tuple[memorisation.Nearest, memorisation.Nearest]:
    def chunks() -> Iterator[tuple[Tensor, list[str]]]:
        for galaxies in features.stream(train):
            features.unshared(galaxies.ids, real.ids, names)
            yield features.coarse(galaxies.images, train.frame, soft), galaxies.ids

    if not sum(train.chunk_rows):
        raise BadInput(f"{names[0]}: no rows; nothing to look for copies in")
    both = memorisation.nearest(torch.cat((new.pixels, real.pixels)), chunks())
    mine = slice(0, len(new)), slice(len(new), None)
    one, other = (memorisation.Nearest(both.distance[part], both.ids[part], both.code[part]) for part in mine)
    return one, other


def _rows(of: Described, pick: Tensor) -> Described:
    def take(value: Tensor | None) -> Tensor | None:
        return None if value is None else value[pick]

    return replace(
        of,
        ids=[of.ids[row] for row in pick.tolist()],
        counts=of.counts[pick],
        numeric=of.numeric[pick],
        cond_counts=take(of.cond_counts),
        cond_numeric=take(of.cond_numeric),
        properties={name: column[pick] for name, column in of.properties.items()},
        pixels=of.pixels[pick],
        fractions=take(of.fractions),
        embedding=take(of.embedding),
    )
