"""How a shard of a job is committed by many who may try at once: one of them wins, and what stands is never replaced.

While a shard is committed its byte of JOB/data/.commits is locked; a lock dies with its holder. So a data file without a record,
seen by a holder, is what a killed writer left.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from galaxysd import files
from galaxysd.data import shards
from galaxysd.errors import GalaxySDError, Mismatch


@contextlib.contextmanager
def _holding(folder: Path, number: int) -> Iterator[bool]:
    """Whether this process now commits shard `number`; False when another one is at it."""
    data = folder / "data"
    with files.explained(data):
        data.mkdir(exist_ok=True)
        handle = os.open(data / ".commits", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except (BlockingIOError, PermissionError):  # what POSIX allows a system to answer
            yield False
            return
        yield True
    finally:
        os.close(handle)


def commit(folder: Path, number: int, table: pa.Table, beside: dict[str, Any] | None = None) -> dict[str, Any] | None:
    """Commits a shard and gives its record; None when another process has, or is at it. `beside` becomes a quarantine record."""
    record = shards.record_path(folder, number)
    with _holding(folder, number) as mine:
        if not mine or record.exists():
            return None
        digest = files.commit(record.with_suffix(".parquet"), lambda file: shards.put_table(table, file), replace=True)
        if beside is not None:
            files.commit_json(quarantine_path(folder, number), beside, replace=True)
        else:  # of an attempt that was killed before its record, and could read less
            quarantine_path(folder, number).unlink(missing_ok=True)
        value = {"file": shards.shard_name(number), "rows": table.num_rows, **digest.to_json()}
        try:
            files.commit_json(record, value)
        except Mismatch:  # only where the file system has no locks: the record that stands counts
            return None
        return value


def quarantine_path(folder: Path, number: int) -> Path:
    return folder / "quarantine" / f"shard-{number:05d}.json"


def problem(folder: Path, number: int, thorough: bool) -> str | None:
    """What is wrong with a committed shard: None when its data stand as recorded, by size or, thoroughly, by digest."""
    try:
        record = shards.read_record(folder, number)
    except GalaxySDError as error:
        return str(error)
    path = folder / "data" / shards.shard_name(number)
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return f"{path}: missing, though its record is there"
    if size != record["size"]:
        return f"{path}: {size} bytes, its record says {record['size']}"
    if thorough and (found := files.digest(path).sha256) != record["sha256"]:
        return f"{path}: SHA-256 {found[:12]}..., its record says {record['sha256'][:12]}..."
    return None


def set_aside(folder: Path, number: int) -> None:
    """Moves a damaged shard to JOB/damaged: its record first, so that no moment shows a record of what is not there."""
    with _holding(folder, number) as mine:
        if not mine:
            return
        aside = folder / "damaged"
        with files.explained(aside):
            aside.mkdir(exist_ok=True)
            record = shards.record_path(folder, number)
            for path in (record, record.with_suffix(".parquet"), quarantine_path(folder, number)):
                if path.exists():
                    os.rename(path, aside / f"{path.stem}-{secrets.token_hex(4)}{path.suffix}")
            files.sync_folder(record.parent)


def sweep(folder: Path, part: int, parts: int) -> None:
    """Removes the temporary files that killed workers of this part left behind; other parts may be writing theirs."""
    for leftover in (folder / "data").glob(f"{files.TEMPORARY}shard-*"):
        number = leftover.name.removeprefix(f"{files.TEMPORARY}shard-").partition(".")[0]
        if number.isdecimal() and int(number) % parts == part:
            leftover.unlink(missing_ok=True)
