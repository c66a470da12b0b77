"""Result rows: one JSON object a line, appended as each is measured, never edited; and what a row says of where it comes from."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from galaxysd import host
from galaxysd.errors import BadInput
from galaxysd.kernels import cases
from galaxysd.kernels.cases import Case

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).with_name("results")
Row = dict[str, Any]

EVERY = {"kind": str, "device": str, "card": str, "machine": dict, "commit": str, "dirty": bool, "time": str}
FIELDS: dict[str, dict[str, type | tuple[type, ...]]] = {
    "kernel": {
        "case": str, "shape": str, "dtype": str, "pass": str, "digest": str, "green": bool, "errors": dict, "error_ratio": (int, float),
        "ratios": dict,
    },
    "headline": {"preset": str, "digest": str, "ratios": dict},
    "ceiling": {"name": str, "value": (int, float), "unit": str},
    "profile": {"preset": str, "shares": dict},
    "step": {"name": str, "ok": bool, "said": str},
    "contest": {"name": str, "preset": str, "ratios": dict},
    "ablation": {
        "arm": str, "factor": str, "seed": int, "digest": str, "images": int, "config": dict, "parameters": int,
        "img_per_s": (int, float), "mean_ratio": (int, float), "classes": dict,
    },
    "pace": {
        "name": str, "preset": str, "batch": int, "size": int, "dtype": str, "threads": int, "rounds": int, "sweep": (str, type(None)),
        "best": dict, "ratios": dict, "seconds": dict, "img_per_s": dict, "gflop_forward": dict, "gflop_convolutions": (int, float),
        "ceilings": dict, "mfu": dict, "copies": dict, "held_mb": dict, "ops": dict, "compile_s": dict, "absent": dict,
    },
    "ranks": {
        "name": str, "preset": str, "batch": int, "dtype": str, "rounds": int, "ranks": int, "ratios": dict, "img_per_s": dict,
    },
    "finetune": {
        "arm": str, "change": str, "digest": str, "images": int, "named": dict, "config": dict, "img_per_s": (int, float),
        "frechet": dict, "coverage": dict, "nearest_over_apart": float, "copies": int, "mean_ratio": (int, float),
    },
    "steps": {
        "point": str, "digest": str, "model": str, "model_sha256": str, "settings": dict, "score": dict, "evaluations": int, "passes": int,
        "img_per_s": (int, float), "mean_ratio": (int, float), "margin": (int, float), "classes": dict,
    },
}  # fmt: skip


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def card() -> str:
    """The name of what computes here: the GPU, or else the CPU."""
    return host.processor(device())


def path(folder: Path = RESULTS, on: str | None = None, what: str = "kernels") -> Path:
    """The file of the rows of this kind of machine: of `kernels`, or of `pace`."""
    return folder / f"{what}-{'gpu' if (on or device()) == 'cuda' else 'cpu'}.jsonl"


def digest(case: Case) -> str:
    """Of the files a case is made of: a row speaks for the code whose digest it carries."""
    folder, found = Path(cases.__file__).parent, hashlib.sha256()
    for name in case.sources:
        data = (folder / name).read_bytes()
        found.update(f"{name} {len(data)}\n".encode() + data)
    return found.hexdigest()


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def provenance() -> Row:
    """Where and of what a row is: machine, versions, commit, and whether files differ from it. Without git the commit is unknown."""
    changed = _git("status", "--porcelain", "--", "galaxysd", "benchmarks", ":!benchmarks/results")
    return {
        "device": device(),
        "card": card(),
        "machine": host.machine(),
        "commit": _git("rev-parse", "HEAD") or "unknown",
        "dirty": changed != "",
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def append(file: Path, row: Row) -> None:
    """Writes a row at the end, and has it on disk before the next is measured."""
    _checked(row, f"{file}: a new row")
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as out:
        out.write(json.dumps(row, allow_nan=False) + "\n")
        out.flush()
        os.fsync(out.fileno())


def read(file: Path) -> list[Row]:
    """All rows of a file, none where there is no file; BadInput names the line of one that cannot be right."""
    if not file.exists():
        return []
    found = []
    for number, line in enumerate(file.read_text().splitlines(), 1):
        where = f"{file}:{number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise BadInput(f"{where}: not JSON ({error.msg}); a row is one object on one line") from None
        found.append(_checked(row, where))
    return found


def _checked(row: Any, where: str) -> Row:
    if not isinstance(row, dict):
        raise BadInput(f"{where}: {type(row).__name__} found, an object expected")
    kind = row.get("kind")
    if kind not in FIELDS:
        raise BadInput(f"{where}: kind is {kind!r}; one of {', '.join(FIELDS)} expected")
    for name, wanted in (EVERY | FIELDS[kind]).items():
        if name not in row:
            raise BadInput(f"{where}: no field {name!r}, which a row of kind {kind} has")
        if not isinstance(row[name], wanted):
            said = wanted.__name__ if isinstance(wanted, type) else "number" if float in wanted else "a name or null"
            raise BadInput(f"{where}: {name} is {type(row[name]).__name__}, {said} expected")
    for peer, found in row.get("ratios", {}).items():
        if not isinstance(found, dict) or not isinstance(found.get("median"), (int, float)):
            raise BadInput(f"{where}: ratios.{peer} has no median")
    return row


def identity(row: Row) -> tuple[str, str, str, str]:
    """What a kernel row measures; later rows of the same are newer measurements."""
    return row["case"], row["shape"], row["dtype"], row["pass"]


def latest(found: list[Row]) -> dict[tuple[str, str, str, str], Row]:
    """The last green row of each kernel measurement."""
    return {identity(row): row for row in found if row["kind"] == "kernel" and row["green"]}
