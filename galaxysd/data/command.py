"""`galaxysd data`: import tables made elsewhere, check sets."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="data_verb", metavar="import|check", required=True)
    into = verbs.add_parser("import", help="turn a Parquet table of JPEG or PNG bytes into an rgb set")
    into.add_argument("file", type=Path, metavar="FILE", help="the Parquet table")
    into.add_argument("--images", required=True, metavar="COLUMN", help="the column with the bytes of JPEG or PNG files")
    into.add_argument(
        "--labels",
        nargs="+",
        action="extend",
        default=[],
        metavar="COLUMN",
        help="columns to take along: those named like an answer (has-spiral-arms_yes) are vote counts, others stay as they are",
    )
    into.add_argument("--id", metavar="COLUMN", help="the column that names each galaxy (default: file name and row)")
    into.add_argument("--size", type=int, metavar="N", help="resample to N pixels on a side (default: the size of the first image)")
    into.add_argument("--out", type=Path, required=True, metavar="DATA", help="folder of the new set")
    into.add_argument("--json", action="store_true", help="print the report as JSON")
    check = verbs.add_parser("check", help="verify a set: digests, values, ids; exit 2 when something is wrong")
    check.add_argument("set", type=Path, metavar="DATA", help="folder of the set")
    check.add_argument("--json", action="store_true", help="print the report as JSON")


def run(args: argparse.Namespace) -> int | None:
    return {"import": _import, "check": _check}[args.data_verb](args)


def _import(args: argparse.Namespace) -> int:
    from galaxysd.data.importing import import_table

    report = import_table(args.file, args.out, args.images, args.labels, args.id, args.size)
    if args.json:
        print(json.dumps({"out": str(args.out), **report}, ensure_ascii=False))
        return 0
    print(f"{args.out}: {report['kept']} of {report['rows']} galaxies of {args.file}")
    for kind, meaning in (("votes", "votes"), ("numbers", "numbers"), ("other", "kept as they are, not votes")):
        if report[kind]:
            print(f"  {meaning}: {', '.join(report[kind])}")
    if report["rejected"]:
        print(f"  left out: {len(report['rejected'])} rows, each with its reason in {args.out / 'rejected.json'}")
        for reason, n in Counter(row["reason"] for row in report["rejected"]).most_common(5):
            print(f"    {n} x {reason}")
    return 0


def _check(args: argparse.Namespace) -> int:
    from galaxysd.data.check import check_set

    report = check_set(args.set)
    print(json.dumps(report, ensure_ascii=False) if args.json else _told(report))
    return 0 if report["ok"] else 2


def _told(report: dict[str, Any]) -> str:
    origin = "synthetic" if report["is_synthetic"] else "real"
    lines = [f"{report['set']}: {report['rows']} {origin} galaxies in {report['shards']} shards, {report['kind']}"]
    for name, question in report["questions"].items():
        votes = ", ".join(f"{answer} {count:.0f}" for answer, count in question["votes"].items())
        lines.append(f"  {name:<20} asked of {question['asked']:>8} galaxies: {votes}")
    for problem in report["problems"]:
        lines.append(f"  problem: {problem}")
    if report["problem_count"] > len(report["problems"]):
        lines.append(f"  ... and {report['problem_count'] - len(report['problems'])} more problems")
    lines.append("  every byte as written" if report["ok"] else f"  {report['problem_count']} problems: the set must not be used as it is")
    return "\n".join(lines)
