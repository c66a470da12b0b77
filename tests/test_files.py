"""Commits that are whole or absent, reads that are checked, folders that are claimed once."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
from pathlib import Path
from typing import BinaryIO

import pytest

from galaxysd import files
from galaxysd.errors import BadInput, GalaxySDError, Mismatch, Unavailable


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_commit_writes_and_gives_the_digest(tmp_path: Path) -> None:
    found = files.commit(tmp_path / "a" / "b", lambda file: file.write(b"abc"))
    assert found == files.Digest(3, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
    assert files.read_verified(tmp_path / "a" / "b", found) == b"abc"
    assert names(tmp_path / "a") == ["b"]


def test_commit_never_overwrites_unless_told(tmp_path: Path) -> None:
    path = tmp_path / "x"
    files.commit(path, lambda file: file.write(b"old"))
    with pytest.raises(Mismatch, match="never overwritten"):
        files.commit(path, lambda file: file.write(b"new"))
    assert path.read_bytes() == b"old"
    files.commit(path, lambda file: file.write(b"new"), replace=True)
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["x"]


def test_a_failed_write_leaves_the_old_state(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")

    def full(file: BinaryIO) -> None:
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(Unavailable, match="disk is full"):
        files.commit(path, full, replace=True)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["x"]


def test_a_file_system_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    files.commit(tmp_path / "x", lambda file: file.write(b"one"))
    with pytest.raises(Mismatch, match="never overwritten"):
        files.commit(tmp_path / "x", lambda file: file.write(b"two"))
    assert (tmp_path / "x").read_bytes() == b"one"
    assert names(tmp_path) == ["x"]


def test_json_goes_there_and_back_and_refuses_nan(tmp_path: Path) -> None:
    files.commit_json(tmp_path / "a.json", {"ä": [1, 0.1, None]})
    assert files.read_json(tmp_path / "a.json") == {"ä": [1, 0.1, None]}
    with pytest.raises(ValueError, match="JSON compliant"):
        files.commit_json(tmp_path / "b.json", {"x": float("nan")})


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[" * 100_000, b"1" * 5000])
def test_broken_json_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(BadInput, match=r"a\.json: not valid JSON"):
        files.read_json(tmp_path / "a.json")


def test_absent_and_huge_json_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such file"):
        files.read_json(tmp_path / "a.json")
    with (tmp_path / "big.json").open("wb") as file:
        file.truncate(files.JSON_LIMIT + 1)
    with pytest.raises(BadInput, match="more than the"):
        files.read_json(tmp_path / "big.json")


def test_every_kind_of_damage_is_found(tmp_path: Path) -> None:
    path = tmp_path / "x"
    content = bytes(range(256))
    record = files.commit(path, lambda file: file.write(content))
    path.write_bytes(content[:-1])
    with pytest.raises(BadInput, match="255 bytes, its record says 256"):
        files.read_verified(path, record)
    for bit in (0, 1000, 2047):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with pytest.raises(BadInput, match="damaged"):
            files.read_verified(path, record)
    path.unlink()
    with pytest.raises(BadInput, match="missing, though its record is there"):
        files.read_verified(path, record)


def test_new_folder_takes_only_what_is_new_or_empty(tmp_path: Path) -> None:
    assert files.new_folder(tmp_path / "a").is_dir()
    files.new_folder(tmp_path / "a")
    (tmp_path / "a" / "mine").write_text("mine")
    with pytest.raises(GalaxySDError, match="not empty"):
        files.new_folder(tmp_path / "a")
    with pytest.raises(GalaxySDError, match="is a file"):
        files.new_folder(tmp_path / "a" / "mine")


def _hold(folder: Path, claimed: multiprocessing.synchronize.Event, release: multiprocessing.synchronize.Event) -> None:
    with files.held(folder):
        claimed.set()
        release.wait(30)


def test_one_holder_and_its_lock_dies_with_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    claimed, release = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(tmp_path, claimed, release))
    holder.start()
    try:
        assert claimed.wait(30)
        with pytest.raises(Mismatch, match="another process is working"), files.held(tmp_path):
            pass
    finally:
        holder.kill()
        holder.join()
    with files.held(tmp_path):
        pass


def test_a_holder_sweeps_only_what_commits_left(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / f"{files.TEMPORARY}shard-1-abcd").write_bytes(b"half")
    (tmp_path / "data" / "mine.tmp").write_bytes(b"mine")
    with files.held(tmp_path):
        assert names(tmp_path / "data") == ["mine.tmp"]


def test_json_is_readable_by_people(tmp_path: Path) -> None:
    files.commit_json(tmp_path / "a.json", {"b": 1, "a": 2})
    text = (tmp_path / "a.json").read_text()
    assert text.endswith("\n")
    assert text.count("\n") > 2
    assert list(json.loads(text)) == ["b", "a"]


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (errno.ENOSPC, Unavailable, "the disk is full"),
        (errno.EROFS, Unavailable, "not allowed .Read-only file system"),
        (errno.EACCES, Unavailable, "not allowed .Permission denied"),
        (errno.ENOTDIR, GalaxySDError, "not a usable path .Not a directory"),
        (errno.EIO, Unavailable, "the machine could not read or write it"),
    ],
)
def test_what_the_system_says_is_told_with_the_place(tmp_path: Path, number: int, kind: type[GalaxySDError], words: str) -> None:
    with pytest.raises(kind, match=rf"{tmp_path}: {words}"), files.explained(tmp_path):
        raise OSError(number, os.strerror(number))


def test_a_path_through_a_file_is_the_users_to_mend(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(GalaxySDError, match="mine/x: not a usable path"):
        files.commit(tmp_path / "mine" / "x", lambda file: file.write(b"x"))


def test_bytes_are_on_the_disk_before_their_name_and_the_name_before_the_return(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut keeps what was synced: the file's bytes, then the link, then the folder that holds the name."""
    happened: list[str] = []
    fsync, link = os.fsync, os.link

    def synced(handle: int) -> None:
        happened.append("folder" if Path(f"/proc/self/fd/{handle}").resolve().is_dir() else "bytes")
        fsync(handle)

    def linked(*arguments: Path) -> None:
        happened.append("link")
        link(*arguments)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "link", linked)
    files.commit(tmp_path / "x", lambda file: file.write(b"abc"))
    assert happened == ["bytes", "link", "folder"]


def test_a_filled_folder_is_whole_or_empty(tmp_path: Path) -> None:
    def full() -> None:
        with files.filled(tmp_path / "a") as folder:
            files.commit(folder / "one", lambda file: file.write(b"1"))
            raise Unavailable("the disk is full")

    with pytest.raises(Unavailable, match="disk is full"):
        full()
    assert names(tmp_path / "a") == []
    with files.filled(tmp_path / "a") as folder:  # so the same command may be run again
        files.commit(folder / "one", lambda file: file.write(b"1"))
        assert names(tmp_path / "a") == [folder.name]
    assert names(tmp_path / "a") == ["one"]


def test_a_filled_folder_takes_no_second_writer(tmp_path: Path) -> None:
    def second() -> None:
        with files.filled(tmp_path / "a") as folder:
            files.commit(folder / "one", lambda file: file.write(b"1"))
            (tmp_path / "a" / "mine").write_text("mine")

    with pytest.raises(Mismatch, match="something else was written there"):
        second()
    assert names(tmp_path / "a") == ["mine"]
