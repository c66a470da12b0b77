"""How a file of ours comes into being, and how a folder is claimed: the one commit routine and the one open routine.

A commit is: unique temporary name beside the target, write, fsync, digest of what was written, link (never replacing) or rename
(when replacing is the point), fsync of the folder. A reader sees the old state or the new one. What is read back is checked
against the digest its record holds.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from galaxysd.errors import BadInput, GalaxySDError, Mismatch, Unavailable

TEMPORARY = ".tmp-"
JSON_LIMIT = 64 << 20


@dataclass(frozen=True)
class Digest:
    """What a record says of a file."""

    size: int
    sha256: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def digest(path: Path) -> Digest:
    """The size and SHA-256 of a file."""
    with path.open("rb") as file:
        total = hashlib.file_digest(file, "sha256")
        return Digest(file.tell(), total.hexdigest())


def told(error: OSError, where: object) -> GalaxySDError | None:
    """What an operating system's refusal means to a user; None when it says nothing about a place."""
    reason = os.strerror(error.errno or 0)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Unavailable(f"{where}: the disk is full; nothing half-written was kept; free space and run the same command again")
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return Unavailable(f"{where}: not allowed ({reason}); choose another folder, or change its permissions")
    if error.errno in (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP):
        return GalaxySDError(f"{where}: not a usable path ({reason}); choose another one")
    if error.errno in (errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE):
        return Unavailable(f"{where}: the machine could not read or write it ({reason}); mend that and run the same command again")
    return None


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns what an operating system says about a place into a sentence with the place in it."""
    try:
        yield
    except OSError as error:
        if (found := told(error, path)) is None:
            raise
        raise found from error


def sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def commit(path: Path, write: Callable[[BinaryIO], object], *, replace: bool = False) -> Digest:
    """Makes `path` hold what `write` puts into the file it is given; gives the digest. Without `replace`, an existing file is an error."""
    path = Path(path)
    temporary = path.with_name(f"{TEMPORARY}{path.name}-{os.getpid()}-{secrets.token_hex(4)}")
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            found = digest(temporary)
            if replace:
                os.replace(temporary, path)
            else:
                _link(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)
    return found


def _link(temporary: Path, path: Path) -> None:
    try:
        os.link(temporary, path)
    except FileExistsError as error:
        raise Mismatch(f"{path}: already there, and what exists is never overwritten") from error
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK):
            raise
        # A file system without hard links: claim the name first, so that two writers cannot both win.
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL))
        except FileExistsError as taken:
            raise Mismatch(f"{path}: already there, and what exists is never overwritten") from taken
        os.replace(temporary, path)


def commit_json(path: Path, value: Any, *, replace: bool = False) -> Digest:
    """Commits `value` as readable JSON."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    return commit(path, lambda file: file.write(text.encode()), replace=replace)


def read_json(path: Path) -> Any:
    """Reads a JSON file of ours; one that is missing, too large or broken is named."""
    try:
        if path.stat().st_size > JSON_LIMIT:
            raise BadInput(f"{path}: {path.stat().st_size} bytes of JSON, more than the {JSON_LIMIT} allowed")
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise BadInput(f"{path}: no such file") from error
    except (ValueError, RecursionError) as error:  # ValueError also for numbers of thousands of digits
        raise BadInput(f"{path}: not valid JSON ({error}); the file is damaged") from error


def read_verified(path: Path, expected: Digest) -> bytes:
    """Gives the bytes of `path` after checking them against the digest of its record."""
    try:
        size = path.stat().st_size
        if size != expected.size:
            raise BadInput(f"{path}: {size} bytes, its record says {expected.size}; the file is truncated or replaced")
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise BadInput(f"{path}: missing, though its record is there") from error
    found = hashlib.sha256(content).hexdigest()
    if found != expected.sha256:
        raise BadInput(f"{path}: SHA-256 {found[:12]}..., its record says {expected.sha256[:12]}...; the file is damaged")
    return content


def new_folder(path: Path) -> Path:
    """Makes `path`, or accepts it when it is an empty folder: nothing a user made is ever written into."""
    path = Path(path)
    with explained(path):
        if path.exists() and not path.is_dir():
            raise GalaxySDError(f"{path}: is a file; give a folder that does not exist yet")
        if path.is_dir() and any(path.iterdir()):
            raise GalaxySDError(f"{path}: not empty, and nothing is overwritten; give a folder that does not exist yet")
        path.mkdir(parents=True, exist_ok=True)
    return path


@contextlib.contextmanager
def filled(path: Path) -> Iterator[Path]:
    """A folder to write into, whose files move into the new or empty `path` when all are there; a failure leaves `path` empty."""
    path = new_folder(path)
    with explained(path):
        inside = path / f"{TEMPORARY}{secrets.token_hex(4)}"
        inside.mkdir()
    try:
        yield inside
        with explained(path):
            if [each for each in path.iterdir() if each != inside]:
                raise Mismatch(f"{path}: something else was written there meanwhile, and nothing is overwritten; choose another folder")
            for each in sorted(inside.iterdir()):
                os.rename(each, path / each.name)
            sync_folder(path)
    finally:
        shutil.rmtree(inside, ignore_errors=True)


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Holds `folder` for this process; a second holder is refused at once. A dead holder's lock is gone with it."""
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Mismatch(f"{folder}: another process is working in this folder; wait for it or choose another folder") from error
        sweep(folder)
        yield
    finally:
        os.close(handle)


def sweep(folder: Path) -> None:
    """Removes what an interrupted commit left in a folder we hold: only our own temporary names."""
    for leftover in folder.rglob(f"{TEMPORARY}*"):
        if not leftover.is_dir():
            leftover.unlink(missing_ok=True)
