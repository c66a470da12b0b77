"""The plan of a job: one small file that fixes everything its bytes depend on, written first and never changed.

JOB/plan.json            the plan and its own digest
JOB/model.safetensors    the model, and JOB/guide.safetensors where it is led; JOB/conditions.parquet what is asked for
JOB/set.json             with pixels: what makes the folder a set of ours when it is whole
JOB/data/                shards, each committed by its record
JOB/drivers/             a lock and a log for each part that has run
JOB/manifest.json        written by `finalize`
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow
import torch

from galaxysd import __version__, files
from galaxysd.data import shards
from galaxysd.errors import BadInput, GalaxySDError, Mismatch

SCHEMA_VERSION = 1
# A record takes up to 200 bytes of the manifest, which is one JSON file.
SHARDS_LIMIT = files.JSON_LIMIT // 200
STORES = ("pixels", "recipe")
CONDITIONS, MODEL, GUIDE, SET = "conditions.parquet", "model.safetensors", "guide.safetensors", "set.json"


@dataclass(frozen=True)
class Plan:
    """A job of `rows` galaxies in `shards` shards. What a kind of job has no use for is None."""

    kind: str  # "sample" or "scan"
    rows: int
    shards: int
    shard_rows: int  # of every shard but the last; of a scan, at most
    unit: int  # galaxies computed together, always as many
    model_name: str
    model: files.Digest
    device: str
    environment: dict[str, str]
    seed: int | None = None
    store: str | None = None
    precision: str | None = None
    settings: dict[str, Any] | None = None
    config: dict[str, Any] | None = None
    guide: files.Digest | None = None
    conditions: files.Digest | None = None
    asked: str | None = None
    described: files.Digest | None = None  # set.json
    data: str | None = None  # the set that is scanned
    manifest: files.Digest | None = None  # of that set

    def span(self, number: int) -> range:
        """The galaxies of shard `number` of a sample; of a scan, whose set may be cut unevenly, about as many."""
        return range(number * self.shard_rows, min(self.rows, (number + 1) * self.shard_rows))

    def part(self, part: int, parts: int) -> range:
        """The shards of part `part` of `parts`."""
        return range(part, self.shards, parts)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(_text(self).encode()).hexdigest()


def _text(plan: Plan) -> str:
    return json.dumps(asdict(plan), sort_keys=True, allow_nan=False)


def environment(device: str) -> dict[str, str]:
    """What, beside the plan, the bytes of a galaxy depend on: versions, and the class of machine."""
    cpu = device == "cpu"
    return {
        "galaxysd": __version__,
        "torch": torch.__version__,
        "pyarrow": pyarrow.__version__,
        "machine": platform.machine(),
        "instruction_set": torch.backends.cpu.get_cpu_capability() if cpu else torch.cuda.get_device_name(),
    }


def check_environment(plan: Plan, where: Path) -> None:
    """Refuses to work on a plan that was made for another class of machine, or other versions."""
    here = environment(plan.device)
    for name, wanted in plan.environment.items():
        if here.get(name) != wanted:
            raise Mismatch(
                f"{where}: planned for {name} {wanted}, here it is {here.get(name)}; a galaxy would not get the same bytes: "
                "run it on a machine like the one that planned it, or make a plan here"
            )


def shard_count(rows: int, shard_rows: int, unit: int) -> int:
    """How many shards, after checking their size."""
    if rows < 1:
        raise GalaxySDError(f"--n {rows}: give at least 1")
    if not 1 <= shard_rows <= shards.ROWS_LIMIT:
        raise GalaxySDError(f"--shard-rows {shard_rows}: must lie between 1 and {shards.ROWS_LIMIT}")
    if shard_rows % unit:
        near = max(unit, shard_rows // unit * unit)
        raise GalaxySDError(f"--shard-rows {shard_rows}: not a multiple of the model's unit of {unit}, which is drawn whole; use {near}")
    count = -(-rows // shard_rows)
    if count > SHARDS_LIMIT:
        least = -(-rows // SHARDS_LIMIT // unit + 1) * unit
        raise GalaxySDError(f"--shard-rows {shard_rows}: {count} shards, at most {SHARDS_LIMIT} fit a manifest; use {least} or more")
    return count


def default_shard_rows(rows: int, row_bytes: float, unit: int) -> int:
    """About 384 MB a shard, in at least 64 shards where there are that many units."""
    wanted = min(384e6 / row_bytes, rows / 64, shards.ROWS_LIMIT)
    wanted = max(wanted, rows / SHARDS_LIMIT)
    return max(1, min(int(wanted // unit) + 1, shards.ROWS_LIMIT // unit)) * unit


def write(folder: Path, plan: Plan) -> None:
    """Commits the plan; with it the folder is a job."""
    files.commit_json(folder / "plan.json", {"schema_version": SCHEMA_VERSION, "plan": asdict(plan), "sha256": plan.sha256})


def read(folder: Path) -> Plan:
    """The plan of a job, checked against its own digest."""
    path = Path(folder) / "plan.json"
    if not path.exists():
        raise BadInput(f"{folder}: not a job (it has no plan.json); galaxysd jobs plan makes one")
    found = files.read_json(path)
    if not isinstance(found, dict) or not isinstance(found.get("plan"), dict):
        raise BadInput(f"{path}: not the plan of a job")
    if found.get("schema_version") != SCHEMA_VERSION:
        raise BadInput(f"{path}: schema_version {found.get('schema_version')!r}, this galaxysd reads {SCHEMA_VERSION}")
    value = dict(found["plan"])
    known = {each.name for each in fields(Plan)}
    if set(value) != known:
        raise BadInput(f"{path}: the field {sorted(set(value) ^ known)[0]!r} is unknown or missing; written by another galaxysd?")
    try:
        for name in ("model", "guide", "conditions", "described", "manifest"):
            value[name] = None if value[name] is None else files.Digest(**value[name])
    except TypeError as error:
        raise BadInput(f"{path}: {name} is no digest ({error}); the plan is damaged") from error
    plan = Plan(**value)
    if plan.sha256 != found.get("sha256"):
        raise Mismatch(f"{path}: SHA-256 {plan.sha256[:12]}..., it says {str(found.get('sha256'))[:12]}...; a plan is never changed")
    return plan


def verified(folder: Path, name: str, expected: files.Digest) -> Path:
    """A file of the job that the plan names by digest."""
    path = folder / name
    if not path.exists():
        raise BadInput(f"{path}: missing, though the plan names it; put it back")
    found = files.digest(path)
    if found != expected:
        raise Mismatch(f"{path}: SHA-256 {found.sha256[:12]}..., the plan says {expected.sha256[:12]}...; put the planned one back")
    return path


def check_files(folder: Path, plan: Plan) -> None:
    """Refuses to begin while a file that the plan names by digest is another one."""
    for name, expected in ((MODEL, plan.model), (GUIDE, plan.guide), (CONDITIONS, plan.conditions)):
        if expected is not None:
            verified(folder, name, expected)


def committed(folder: Path) -> Iterator[int]:
    """The numbers of the shards that have a record, in no order."""
    data = folder / "data"
    for path in data.iterdir() if data.is_dir() else ():
        number = path.stem.removeprefix("shard-")
        if path.suffix == ".json" and number.isdecimal() and path == shards.record_path(folder, int(number)):
            yield int(number)
