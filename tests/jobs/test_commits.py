"""One winner a shard, old or new and never mixed, whoever dies where."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from galaxysd.data import shards
from galaxysd.jobs import commits
from tests import jobbing

TABLE = pa.table({"id": ["a", "b"], "index": [0, 1]})


def die_at(call: int, folder: Path) -> bool:
    """A child that commits shard 0 and dies just before or, when odd, just after its system call number call // 2; True when it lived."""
    child = os.fork()
    if child == 0:
        left = call // 2

        def counted(made):
            def wrapped(*arguments, **options):
                nonlocal left
                left -= 1
                if left == -1 and call % 2 == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                try:
                    return made(*arguments, **options)
                finally:
                    if left == -1:
                        os.kill(os.getpid(), signal.SIGKILL)

            return wrapped

        for name in (*jobbing.CALLS, "open", "close"):
            setattr(os, name, counted(getattr(os, name)))
        code = 1
        try:
            commits.commit(folder, 0, TABLE, {"rows": []})
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.WIFEXITED(status) or os.WTERMSIG(status) == signal.SIGKILL
    assert not os.WIFEXITED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFEXITED(status)


def test_death_at_every_system_call(tmp_path: Path, report):
    call, there = 0, 0
    while True:
        folder = tmp_path / str(call)
        folder.mkdir()
        lived = die_at(call, folder)
        new = shards.record_path(folder, 0).exists()
        if new:
            there += 1
            assert commits.problem(folder, 0, thorough=True) is None
        commits.sweep(folder, 0, 1)
        assert (commits.commit(folder, 0, TABLE) is None) == new
        assert commits.problem(folder, 0, thorough=True) is None
        assert pq.read_table(folder / "data/shard-00000.parquet").equals(TABLE)
        assert not jobbing.leftovers(folder / "data")
        if lived:
            break
        call += 1
    report("deaths around the system calls of a shard's commit: old or new", f"{call} of {call}, new in {there}", n=call)
    assert call > 20
    assert 0 < there < call


def test_racers_have_one_winner_each(tmp_path: Path, tier):
    n = tier("jobs-racing-shards")
    won = jobbing.race(tmp_path, 8, n)
    assert sorted(number for each in won for number in each) == list(range(n))
    assert jobbing.faithful(tmp_path, n) == n
    for racer, numbers in enumerate(won):
        for number in numbers:
            assert pq.read_table(tmp_path / "data" / shards.shard_name(number))["id"][0].as_py() == str(racer)


def test_what_stands_is_not_replaced(tmp_path: Path):
    first = commits.commit(tmp_path, 3, TABLE)
    assert first is not None
    assert commits.commit(tmp_path, 3, TABLE.slice(1)) is None
    assert commits.problem(tmp_path, 3, thorough=True) is None
    assert shards.read_record(tmp_path, 3) == first


def test_data_without_a_record_are_nobodys(tmp_path: Path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / shards.shard_name(0)).write_bytes(b"what a killed writer left")
    assert commits.commit(tmp_path, 0, TABLE) is not None
    assert commits.problem(tmp_path, 0, thorough=True) is None


@pytest.mark.parametrize("harm", ["flip", "cut", "gone", "record"])
def test_damage_is_named_and_set_aside(tmp_path: Path, harm: str):
    commits.commit(tmp_path, 0, TABLE)
    path = tmp_path / "data" / shards.shard_name(0)
    content = path.read_bytes()
    if harm == "gone":
        path.unlink()
    elif harm == "record":
        path.with_suffix(".json").write_text('{"file": "../elsewhere"}')
    else:
        path.write_bytes(content[:-1] if harm == "cut" else content[:9] + bytes([content[9] ^ 4]) + content[10:])
    assert (commits.problem(tmp_path, 0, thorough=False) is None) == (harm == "flip")
    said = commits.problem(tmp_path, 0, thorough=True)
    assert said is not None
    assert path.name in said or path.stem in said
    commits.set_aside(tmp_path, 0)
    assert list((tmp_path / "data").glob("shard*")) == []
    assert len(list((tmp_path / "damaged").iterdir())) == (1 if harm == "gone" else 2)


def test_a_quarantine_record_is_that_of_the_shard_that_stands(tmp_path: Path):
    record = commits.quarantine_path(tmp_path, 0)
    commits.commit(tmp_path, 0, TABLE, {"rows": [1]})
    assert record.exists()
    commits.set_aside(tmp_path, 0)
    assert not record.exists()
    record.write_text("of an attempt that was killed")
    commits.commit(tmp_path, 0, TABLE)
    assert not record.exists()


def test_only_leftovers_of_this_part_are_swept(tmp_path: Path):
    (tmp_path / "data").mkdir()
    for number in range(4):
        (tmp_path / "data" / f".tmp-shard-{number:05d}.parquet-1-ab").touch()
    commits.sweep(tmp_path, 1, 2)
    assert [int(path.name[11:16]) for path in sorted(jobbing.leftovers(tmp_path))] == [0, 2]
