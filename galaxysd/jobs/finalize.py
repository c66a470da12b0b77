"""`galaxysd jobs finalize`: verifies every shard of a job, and writes what makes the folder a whole, described data set."""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

from galaxysd import files
from galaxysd.data import shards
from galaxysd.errors import BadInput, GalaxySDError, Mismatch
from galaxysd.jobs import commits
from galaxysd.jobs import plan as plans
from galaxysd.jobs.plan import Plan
from galaxysd.jobs.sampling import described_name
from galaxysd.runlog import Progress

SHOWN = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job", metavar="JOB", type=Path)
    parser.add_argument(
        "--licence", default="other", metavar="NAME", help="what the card says of the data's licence, as cc-by-4.0 (%(default)s)"
    )
    parser.add_argument("--json", action="store_true")


def run(args: argparse.Namespace) -> None:
    plan = plans.read(args.job)
    found = finalized(args.job, plan, args.licence)
    if args.json:
        print(json.dumps(found))
    else:
        print(f"{args.job}: {found['rows']:,} galaxies in {found['shards']:,} shards verified; union SHA-256 {found['union']}")


def finalized(folder: Path, plan: Plan, licence: str) -> dict[str, Any]:
    """Verifies all digests and commits manifest and card; gives what it found. A job that is finalized already is verified again."""
    done = set(plans.committed(folder))
    lacking = [number for number in range(plan.shards) if number not in done]
    if lacking:
        raise GalaxySDError(
            f"{folder}: {len(lacking):,} of {plan.shards:,} shards are not made yet, first {lacking[0]}; galaxysd jobs run {folder}"
        )
    if done - set(range(plan.shards)):
        raise BadInput(f"{folder}: shard {max(done)} is none of the plan's {plan.shards}; take it out of the folder")
    records, damaged = [], []
    with Progress("finalize", total=plan.shards, unit="shards") as progress:
        for number in range(plan.shards):
            if (why := commits.problem(folder, number, thorough=True)) is not None:
                damaged.append(why)
            else:
                records.append(shards.read_record(folder, number))
            progress.update()
    if damaged:
        shown = "; ".join(damaged[:SHOWN])
        raise BadInput(f"{folder}: {len(damaged)} shards are damaged: {shown}; galaxysd jobs run {folder} --verify makes them again")
    rows = sum(record["rows"] for record in records)
    if rows != plan.rows:
        raise BadInput(f"{folder}: {rows} rows in its shards, {plan.rows} planned")
    described = folder / (described_name(plan.store) if plan.store else "plan.json")
    manifest = {**shards.manifest_of(described, records), "union": union(records), "plan": plan.sha256}
    if not (folder / "README.md").exists():
        files.commit(folder / "README.md", lambda file: file.write(card(folder, plan, manifest, licence).encode()))
    if not (folder / "manifest.json").exists():
        files.commit_json(folder / "manifest.json", manifest)
    elif files.read_json(folder / "manifest.json") != manifest:
        raise Mismatch(f"{folder / 'manifest.json'}: does not say what the shards are; it was changed, or is another job's")
    return {
        "job": str(folder),
        "rows": rows,
        "shards": plan.shards,
        "bytes": sum(each["size"] for each in records),
        "union": manifest["union"],
    }


def union(records: list[dict[str, Any]]) -> str:
    """One digest of all shards in order: equal for two jobs of one plan, however they were run."""
    return hashlib.sha256("".join(f"{record['sha256']}\n" for record in records).encode()).hexdigest()


def card(folder: Path, plan: Plan, manifest: dict[str, Any], licence: str) -> str:
    """README.md of the data set: the header that the Hugging Face hub reads, licence, provenance, how to load and to make again."""
    what = "galaxies drawn by a model" if plan.kind == "sample" else "what a classifier sees in galaxies"
    facts: dict[str, object] = {
        "galaxies": f"{plan.rows:,}",
        "shards": f"{plan.shards:,}",
        "model": f"{plan.model_name}, SHA-256 `{plan.model.sha256}`",
        "plan": f"`{plan.sha256}`",
        "union of the shards": f"`{manifest['union']}`",
    }
    if plan.kind == "sample":
        facts |= {
            "store": plan.store,
            "asked for": f"`{plan.asked}`",
            "seed": plan.seed,
            "sampler": json.dumps(plan.settings),
            "precision": plan.precision,
        }
    elif plan.manifest is not None:
        facts |= {"set looked at": f"`{plan.data}`, manifest SHA-256 `{plan.manifest.sha256}`"}
    facts |= plan.environment
    again = (
        f"galaxysd jobs regenerate {folder.name} --rows 0-9 --out AGAIN"
        if plan.kind == "sample"
        else f"galaxysd jobs run {folder.name} --verify"
    )
    synthetic = (
        "Every galaxy here is synthetic (`is_synthetic` is true in each row): none was observed, none has a position in the sky.\n\n"
        if plan.kind == "sample"
        else ""
    )
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    return f"""---
license: {licence}
pretty_name: {folder.name}
tags: [astronomy, galaxies, galaxysd{", synthetic" if plan.kind == "sample" else ""}]
configs:
- config_name: default
  data_files: data/*.parquet
---

# {folder.name}: {what}

{synthetic}Licence: {licence if licence != "other" else "not stated"}.

| | |
| --- | --- |
{rows}

`datasets.load_dataset("parquet", data_files="data/*.parquet")`, pyarrow and pandas read it without galaxysd; `manifest.json` holds the size
and SHA-256 of every shard. Verify it, or make any of it again:

    galaxysd jobs finalize {folder.name}
    {again}
"""
