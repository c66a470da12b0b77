"""`galaxysd evaluate SET --against DATA --out REPORT`: what a generated set is worth, measured on galaxies nobody trained on."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from galaxysd import __version__, files
from galaxysd.data.readers import open_set
from galaxysd.errors import BadInput, GalaxySDError, Unavailable
from galaxysd.evaluate import alarms, catalogue, conditional, detector, features, memorisation, report, spaces
from galaxysd.evaluate.features import Described, Judge, Rows
from galaxysd.model.calibration import calibration

NO_JUDGE = "no judge"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `galaxysd evaluate`."""
    parser.add_argument("set", type=Path, metavar="SET", help="the generated set")
    parser.add_argument("--against", type=Path, required=True, metavar="DATA", help="a held-out set that no model was trained on")
    parser.add_argument("--train", type=Path, metavar="DATA", help="the training set, to look for copies in")
    parser.add_argument("--out", type=Path, required=True, metavar="REPORT", help="the folder of the report, new or empty")
    parser.add_argument(
        "--limit", type=int, default=10_000, help="look at no more rows of each set than this, a seeded sample (default 10000)"
    )
    parser.add_argument(
        "--statmorph",
        type=int,
        default=0,
        metavar="ROWS",
        help="also measure this many rows of each set by photutils and statmorph (try 1000; up to a second a row and core)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of samples, splits and shuffles (default 0)")
    parser.add_argument("--json", action="store_true", help="print the whole report as JSON")


def run(args: argparse.Namespace) -> int:
    """Evaluates, writes the report, says what it found."""
    if args.limit < 1:
        raise GalaxySDError(f"--limit: {args.limit} rows; must be at least 1")
    if args.statmorph < 0:
        raise GalaxySDError(f"--statmorph: {args.statmorph} rows; must be 0, for none, or more")
    if args.statmorph and (reason := catalogue.absent()):
        raise Unavailable(f"--statmorph {args.statmorph}: {reason}")
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
            statmorph_rows=args.statmorph,
        )
        evaluation.findings["command"] = shlex.join(["galaxysd", *sys.argv[1:]])
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
    statmorph_rows: int = 0,
) -> report.Evaluation:
    """Measures a generated set against a held-out one; with `train`, also looks for copies of training galaxies."""
    features.comparable(generated.frame, held_out.frame, (names[0], names[1]))
    missing: dict[str, str] = {}
    refused = features.refusal(judge, held_out) if judge is not None else None
    if refused is not None:
        judge, why_no_judge = None, refused
    if judge is None:
        missing["classes, vote fractions and the judge's embedding"] = why_no_judge
    soft = features.softening(held_out, seed)
    real = features.describe(held_out, soft, judge, limit, seed)
    new = features.describe(generated, soft, judge, limit, seed)
    features.unshared(new.ids, real.ids, (names[0], names[1]))
    features.natural(real, names[1])
    if judge is not None:
        features.independent(judge, real, names[1], missing)
    nearest = None
    if train is None:
        missing["nearest training galaxies"] = "no training set was given (--train DATA)"
    else:
        features.comparable(train.frame, held_out.frame, (names[2] or "train", names[1]))
        nearest = _nearest(new, real, train, soft, (names[2] or "train", names[1]))
    found, compared = findings(new, real, nearest, missing, seed)
    told = detector.detect(new, compared, held_out, soft, seed)
    if told is None:
        missing["whether it can be told"] = f"fewer than {detector.LEAST} rows on a side"
    physical = None
    if statmorph_rows:
        physical = catalogue.compare(generated, held_out, statmorph_rows, seed)
    else:
        missing["photutils' and statmorph's measurements"] = catalogue.absent() or "not asked for (--statmorph ROWS)"
    found = {
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
        **found,
        "detector": told,
        "statmorph": physical,
        "pretrained_encoder": spaces.PRETRAINED,
        "not_measured": missing,
    }
    found["verdict"] = report.verdict(found)
    return report.Evaluation(found, new, compared, nearest)


def findings(
    new: Described,
    real: Described,
    nearest: tuple[memorisation.Nearest, memorisation.Nearest] | None,
    missing: dict[str, str],
    seed: int,
) -> tuple[dict[str, Any], Described]:
    """Everything that described rows tell, with its alarms, and the held-out rows that distributions are compared with.

    What could not be measured is added to `missing` with its reason.
    """
    mixed = conditional.same_mix(new, real, seed)
    compared = real if mixed is None else real.rows(mixed)
    classes = conditional.agreement(new, real, seed)
    if classes is None and real.fractions is not None:
        missing["requested classes"] = f"no row asks for {', '.join(conditional.CLASSES)}"
    flux = conditional.flux_ratio(new, real, seed)
    if flux is None:
        missing["flux at the requested magnitude"] = (
            "display colour is relative only" if new.frame.kind == "rgb" else "too few rows with a requested and a held-out magnitude"
        )
    found: dict[str, Any] = {
        "compared_with": (
            f"Distributions are compared with all {len(real)} held-out rows."
            if mixed is None
            else f"Distributions are compared with {len(compared)} of {len(real)} held-out rows, in the mix of classes that was asked for."
        ),
        "classes": classes,
        "shares": conditional.shares(new, compared),
        "fractions": conditional.fractions(new, real),
        "calibration": calibration(real.fractions, real.counts, real.schema) if real.fractions is not None else None,
        "flux_ratio": flux,
        "size_ratio": conditional.size_ratio(new, real, seed),
        "distributions": spaces.properties(new, compared, seed, missing),
        "spaces": spaces.spaces(new, compared, seed, missing),
        "memorisation": memorisation.compare(*nearest, new.ids, conditional.requested(new)) if nearest is not None else None,
    }
    raised = alarms.alarms(found)
    return found | {"alarms": [alarm.to_json() for alarm in raised], "passes": not raised}, compared


def _nearest(
    new: Described, real: Described, train: Rows, soft: Tensor, names: tuple[str, str]
) -> tuple[memorisation.Nearest, memorisation.Nearest]:
    def chunks() -> Iterator[tuple[Tensor, list[str]]]:
        for galaxies in features.stream(train):
            features.unshared(galaxies.ids, real.ids, names)
            yield features.coarse(galaxies.images, train.frame, soft), galaxies.ids

    if not sum(train.chunk_rows):
        raise BadInput(f"{names[0]}: no rows; nothing to look for copies in")
    both = memorisation.closest(torch.cat((new.pixels, real.pixels)), chunks())
    return both.rows(slice(0, len(new))), both.rows(slice(len(new), None))
