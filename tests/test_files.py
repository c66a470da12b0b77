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


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[" * 100_000])
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
