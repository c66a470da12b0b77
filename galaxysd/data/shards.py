"""The set format and its writer: Parquet shards, a JSON record that commits each, a manifest. `layout` says what a shard holds.

SET/set.json                  what every image has in common: frame, provenance, label tree; written first
SET/data/shard-00000.parquet  up to `shard_rows` galaxies
SET/data/shard-00000.json     its record: rows, bytes, SHA-256. A shard without its record does not exist
SET/manifest.json             all records, written last: a set without it is unfinished
"""

from __future__ import annotations

import contextlib
import json
import types
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from galaxysd import files
from galaxysd.data import layout
from galaxysd.data.galaxies import Frame, Galaxies
from galaxysd.errors import BadInput, GalaxySDError, Mismatch

SCHEMA_VERSION = 1
ROW_GROUP, LABELS_GROUP = 128, 8192  # rows with images, and without
ROWS_LIMIT = 1 << 16  # in a shard; more would be a memory bomb, not a shard


def shard_name(number: int) -> str:
    return f"shard-{number:05d}.parquet"


def record_path(folder: Path, number: int) -> Path:
    return folder / "data" / f"shard-{number:05d}.json"


def description(frame: Frame, provenance: dict[str, Any], shard_rows: int) -> dict[str, Any]:
    """What `set.json` holds; anything not said to be real counts as synthetic."""
    return {
        "schema_version": SCHEMA_VERSION,
        "frame": frame.to_json(),
        "provenance": {"is_synthetic": True, **provenance},
        "schema": frame.labels.to_json(),
        "shard_rows": shard_rows,
    }


def check_record(record: Any, number: int, where: str) -> None:
    """Refuses what is not the record of shard `number`: its file is the one of its number, wherever a hostile record may point."""
    if not isinstance(record, dict) or set(record) != {"file", "rows", "size", "sha256"}:
        raise BadInput(f"{where}: shard {number} has no record of file, rows, size and sha256")
    if record["file"] != shard_name(number):
        raise BadInput(f"{where}: points to {record['file']!r} for shard {number}; only data/{shard_name(number)} is allowed")
    if any(type(record[name]) is not int or record[name] < 1 for name in ("rows", "size")) or type(record["sha256"]) is not str:
        raise BadInput(f"{where}: shard {number} has {record['rows']!r} rows and {record['size']!r} bytes; neither can be")
    if record["rows"] > ROWS_LIMIT:
        raise BadInput(f"{where}: shard {number} has {record['rows']} rows, more than the {ROWS_LIMIT} allowed")


def read_record(folder: Path, number: int) -> dict[str, Any]:
    """The record of a shard, checked."""
    path = record_path(folder, number)
    record = files.read_json(path)
    check_record(record, number, str(path))
    return dict(record)


def put_table(table: pa.Table, file: Any) -> None:
    """Writes the Parquet of a shard: raw pixels and names as they are, everything that repeats as a dictionary, a checksum a page.

    A table without images is compressed, in fewer and larger groups of rows.
    """
    pixels = "image" in table.column_names
    pq.write_table(
        table,
        file,
        row_group_size=ROW_GROUP if pixels else LABELS_GROUP,
        compression="NONE" if pixels else "zstd",
        use_dictionary=[name for name in table.column_names if name not in ("image", "id", "index")],
        write_statistics=[name for name in table.column_names if name != "image"],
        write_page_checksum=True,
    )


def manifest_of(described: Path, records: list[dict[str, Any]]) -> dict[str, Any]:
    """What `manifest.json` holds: the digest of the description (`set.json`), and the records of all shards in order."""
    return {
        "schema_version": SCHEMA_VERSION,
        "set": files.digest(described).sha256,
        "rows": sum(record["rows"] for record in records),
        "shards": records,
    }


class SetWriter:
    """Writes a set, shard by shard and in any order; run again with the same arguments, it goes on where it stopped.

    `provenance` is recorded as it is; its `made_by` is the short text of each row, and `is_synthetic` is true unless it says otherwise.
    """

    def __init__(self, folder: Path, frame: Frame, provenance: dict[str, Any], shard_rows: int = 1024) -> None:
        if not 1 <= shard_rows <= ROWS_LIMIT:
            raise GalaxySDError(f"shard_rows: {shard_rows}; must lie between 1 and {ROWS_LIMIT}")
        self.folder, self.frame, self.shard_rows = Path(folder), frame, shard_rows
        self.about = json.loads(json.dumps(description(frame, provenance, shard_rows), allow_nan=False))
        _refuse_foreign(self.folder)
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(files.held(self.folder))
        try:
            self._claim()
        except BaseException:
            self._stack.close()
            raise

    def _claim(self) -> None:
        _refuse_foreign(self.folder)
        path = self.folder / "set.json"
        if not path.exists():
            files.commit_json(path, self.about)
            return
        there = files.read_json(path)
        if there != self.about:
            raise Mismatch(f"{self.folder}: holds another set ({_difference(there, self.about)}); choose another folder")

    def __enter__(self) -> SetWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None) -> None:
        self._stack.close()

    @property
    def finished(self) -> bool:
        return (self.folder / "manifest.json").exists()

    def done(self) -> set[int]:
        """The numbers of the shards that exist."""
        found = set()
        for path in (self.folder / "data").glob("shard-*.json"):
            number = int(path.stem.removeprefix("shard-")) if path.stem.removeprefix("shard-").isdecimal() else -1
            if number < 0 or path != record_path(self.folder, number):
                raise BadInput(f"{path}: not a record of ours; take it out of the folder")
            record = read_record(self.folder, number)
            shard = path.with_name(shard_name(number))
            if not shard.exists() or shard.stat().st_size != record["size"]:
                raise BadInput(f"{shard}: missing or not of {record['size']} bytes as recorded; remove {path.name} to have it made again")
            found.add(number)
        return found

    def write(self, number: int, galaxies: Galaxies) -> None:
        """Writes and commits one shard."""
        where = f"{self.folder / 'data' / shard_name(number)}"
        record = record_path(self.folder, number)
        if self.finished or record.exists():
            raise Mismatch(f"{where}: already there, and what exists is never overwritten")
        if not 1 <= len(galaxies) <= self.shard_rows:
            raise GalaxySDError(f"{where}: {len(galaxies)} galaxies; a shard of this set holds 1 to {self.shard_rows}")
        table = layout.encode(galaxies, self.frame, self.about["provenance"], where)
        # A file without its record is what a killed writer left: it does not exist, so it may be replaced.
        digest = files.commit(Path(where), lambda file: put_table(table, file), replace=True)
        files.commit_json(record, {"file": shard_name(number), "rows": len(galaxies), **digest.to_json()})

    def finish(self) -> dict[str, Any]:
        """Writes the manifest, which makes the set whole; gives it."""
        path = self.folder / "manifest.json"
        if self.finished:
            return dict(files.read_json(path))
        done = self.done()
        missing = sorted(set(range(max(done, default=0) + 1)) - done)
        if missing:
            raise GalaxySDError(f"{self.folder}: shard {missing[0]} of {max(done, default=0) + 1} was never written; a set has no gaps")
        records = [read_record(self.folder, number) for number in range(len(done))]
        manifest = manifest_of(self.folder / "set.json", records)
        files.commit_json(path, manifest)
        return manifest


def _refuse_foreign(folder: Path) -> None:
    """Nothing is locked, swept or written in a folder that holds something else than a set of ours, or what its claiming left."""
    if not folder.is_dir():
        files.new_folder(folder)
    elif not (folder / "set.json").exists():
        others = [path.name for path in folder.iterdir() if path.name != ".lock" and not path.name.startswith(files.TEMPORARY)]
        if others:
            files.new_folder(folder)  # says that it is not empty


def _difference(there: Any, here: dict[str, Any], name: str = "") -> str:
    """The first value in which two descriptions differ, in words."""
    if isinstance(there, dict):
        for key, value in here.items():
            if there.get(key) != value:
                inner = f"{name}.{key}" if name else key
                if isinstance(value, dict):
                    return _difference(there.get(key), value, inner)
                return f"{inner} is {there.get(key)!r}, not {value!r}"
        extra = next((key for key in there if key not in here), None)
        return f"{name}.{extra} is {there.get(extra)!r}, which was not asked for now".lstrip(".")
    return f"{name or 'set.json'} is {there!r}"
