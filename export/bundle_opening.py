"""Opens a bundle: nothing in it is read for what it means before every file has been found to be the one its record names.

Refused are a changed, missing or extra file, a path out of the folder, a link, a folder inside, a graph that keeps weights in files
elsewhere, and another format. A checksum says that a bundle is whole, not who made it: run a copy of this runner that you trust.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FORMAT = 1
RECORD = "checksums.json"
JSON_LIMIT = 4 << 20
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")  # of a file: no folder, no way up


# What bundle.json must say, by kind of bundle: each with what it must be.
NUMBER, NUMBERS, NAMES = (int, float), [(int, float)], [str]
STRETCH = {"kind": str, "softening": NUMBERS, "gain": NUMBERS, "offset": NUMBERS}
SHARED: dict[str, Any] = {
    "frame": {"kind": str, "size": int, "bands": NAMES, "pixel_scale": (int, float, type(None))},
    "stretch": STRETCH,
    "tolerance": {"measure": str, "limit": NUMBER},
    "batches": [int],
}
GRAPH = {"file": str, "inputs": NAMES, "outputs": NAMES}
QUESTION = {"name": str, "answers": NAMES, "parents": NAMES}
SAID: dict[str, dict[str, Any]] = {
    "denoiser": SHARED
    | {
        "graphs": {"denoiser": GRAPH, "step": GRAPH},
        "conditions": {"numeric": NAMES, "scales": dict, "typical_voters": NUMBER},
        "sampling": {
            **dict.fromkeys(("sigma_min", "sigma_max", "rho", "guidance"), NUMBER),
            "steps": int,
            "interval": NUMBERS,
        },
    },
    "classifier": SHARED | {"graphs": {"classifier": GRAPH}},
}


class Refused(Exception):
    """Bad input, in words; leaves with `code`."""

    def __init__(self, words: str, code: int = 2) -> None:
        super().__init__(words)
        self.code = code


class Bundle:
    """A folder whose files are those of its record; `kind` is denoiser or classifier, `about` its description."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not folder.is_dir():
            raise Refused(f"{folder}: no such folder; give the folder that galaxysd export wrote")
        self.record = _record(folder / RECORD)
        _compare(folder, self.record)
        for name, entry in self.record.items():
            _check(folder / name, entry)
        self.about = described(folder / "bundle.json", self.json("bundle.json"))
        self.kind: str = self.about["kind"]

    def bytes(self, name: str) -> bytes:
        """The content of a file, checked once more as it is read."""
        if name not in self.record:
            raise Refused(f"{self.folder}: {name} is needed and not in {RECORD}")
        path, entry = self.folder / name, self.record[name]
        with _opened(path) as file:
            content = file.read(entry["size"] + 1)
        if len(content) != entry["size"] or hashlib.sha256(content).hexdigest() != entry["sha256"]:
            raise Refused(f"{path}: changed while the bundle was being read")
        return content

    def json(self, name: str) -> Any:
        """The content of a JSON file."""
        return _parsed(self.folder / name, self.bytes(name))

    def labels(self) -> dict[str, Any]:
        """The questions, their answers and what people call them."""
        path, found = self.folder / "labels.json", self.json("labels.json")
        _require(path, "", found, {"questions": [dict], "aliases": dict})
        for number, question in enumerate(found["questions"]):
            _require(path, f"questions[{number}].", question, QUESTION)
        return dict(found)

    def passed(self) -> None:
        """Refuses a bundle whose own parity check did not pass where it was exported."""
        if "parity.json" in self.record and (verdict := self.json("parity.json").get("verdict")) == "failed":
            raise Refused(f"{self.folder}: parity.json says {verdict}: its graphs part from the model; export it again")


def described(path: Path, about: Any) -> dict[str, Any]:
    """bundle.json, if it is of this runner's format and says all that is needed."""
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        found = about.get("format") if isinstance(about, dict) else type(about).__name__
        raise Refused(f"{path}: bundle format {found!r}, this runner reads {FORMAT}; use the runner inside the bundle, or export anew")
    if about.get("kind") not in SAID:
        raise Refused(f"{path}: a bundle of {about.get('kind')!r}; this runner knows {' and '.join(SAID)}")
    _require(path, "", about, SAID[about["kind"]])
    return about


def _require(path: Path, where: str, value: Any, wanted: Any) -> None:
    if isinstance(wanted, dict):
        for name, each in wanted.items():
            if not isinstance(value, dict) or name not in value:
                raise Refused(f"{path}: lacks {where}{name}; not a bundle that this runner reads")
            _require(path, f"{where}{name}.", value[name], each)
    elif isinstance(wanted, list):
        if not isinstance(value, list) or not all(isinstance(each, wanted[0]) for each in value):
            raise Refused(f"{path}: {where.rstrip('.')} is {value!r}, a list was expected; not a bundle that this runner reads")
    elif not isinstance(value, wanted):
        raise Refused(f"{path}: {where.rstrip('.')} is {value!r}; not a bundle that this runner reads")


def _opened(path: Path) -> Any:
    """The file itself: never through a link, never a device or pipe."""
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        raise Refused(f"{path}: cannot be opened ({os.strerror(error.errno or 0)})") from error
    file = os.fdopen(handle, "rb")
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        file.close()
        raise Refused(f"{path}: not a plain file")
    return file


def _parsed(path: Path, content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Refused(f"{path}: not valid JSON ({error})") from error


def _record(path: Path) -> dict[str, dict[str, Any]]:
    """What the record says of each file."""
    with _opened(path) as file:
        content = file.read(JSON_LIMIT + 1)
    if len(content) > JSON_LIMIT:
        raise Refused(f"{path}: more than {JSON_LIMIT} bytes; not a record of ours")
    found = _parsed(path, content)
    if not isinstance(found, dict) or found.get("format") != FORMAT or not isinstance(found.get("files"), dict):
        said = found.get("format") if isinstance(found, dict) else type(found).__name__
        raise Refused(f"{path}: record format {said!r}, this runner reads {FORMAT}; use the runner inside the bundle, or export anew")
    for name, entry in found["files"].items():
        if not NAME.fullmatch(name):
            raise Refused(f"{path}: names {name!r}, a path out of the bundle's folder")
        whole = isinstance(entry, dict) and entry.keys() == {"size", "sha256"}
        if not whole or type(entry["size"]) is not int or entry["size"] < 0 or not re.fullmatch("[0-9a-f]{64}", str(entry["sha256"])):
            raise Refused(f"{path}: {name} has no size and SHA-256; the record is damaged")
    return dict(found["files"])


def _compare(folder: Path, record: dict[str, dict[str, Any]]) -> None:
    """What lies in the folder must be what the record names."""
    there = set()
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_symlink():
                raise Refused(f"{entry.path}: a symbolic link; a bundle holds plain files only")
            if not entry.is_file(follow_symlinks=False):
                raise Refused(f"{entry.path}: not a plain file; a bundle holds plain files only")
            there.add(entry.name)
    if missing := sorted(record.keys() - there):
        raise Refused(f"{folder}: {missing[0]} is missing, though {RECORD} names it")
    if extra := sorted(there - record.keys() - {RECORD}):
        raise Refused(f"{folder}: {extra[0]} is not in {RECORD}; a bundle holds nothing else, so write results to another folder")


def _check(path: Path, entry: dict[str, Any]) -> None:
    with _opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size != entry["size"]:
            raise Refused(f"{path}: {size} bytes, {RECORD} says {entry['size']}; truncated or replaced")
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != entry["sha256"]:
        raise Refused(f"{path}: SHA-256 {found[:12]}..., {RECORD} says {entry['sha256'][:12]}...; damaged or replaced")


# Where a message of onnx.proto holds further messages that may hold a tensor: field number -> message.
INSIDE: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
DEPTH = 32


def keeps_weights_elsewhere(content: bytes | memoryview, message: str = "model", depth: int = 0) -> bool:
    """Whether a serialised ONNX message names external data: read off the wire, before any library opens it."""
    if depth > DEPTH:
        raise ValueError(f"messages inside one another more than {DEPTH} deep")
    for number, value in fields(memoryview(content)):
        if message == "tensor" and (number == 13 or (number == 14 and value != 0)):  # external_data, data_location
            return True
        kind = INSIDE[message].get(number)
        if kind is not None:
            if isinstance(value, int):
                raise ValueError(f"field {number} of a {message} is not a message")
            if keeps_weights_elsewhere(value, kind, depth + 1):
                return True
    return False


def fields(content: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of a protobuf message: number, and an integer or the bytes."""
    place = 0
    while place < len(content):
        tag, place = _varint(content, place)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, place = _varint(content, place)
            yield number, value
            continue
        if wire == 2:
            size, place = _varint(content, place)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if place + size > len(content):
            raise ValueError("a field ends beyond the file")
        yield number, content[place : place + size]
        place += size


def _varint(content: memoryview, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(content):
            raise ValueError("a number ends beyond the file")
        byte = content[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise ValueError("a number of more than ten bytes")
