"""Writing a set: commits, going on after a kill, and folders that are somebody else's."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from galaxysd.data import shards
from galaxysd.data.galaxies import Frame
from galaxysd.data.readers import open_set
from galaxysd.data.shards import SetWriter
from galaxysd.errors import BadInput, GalaxySDError, Mismatch

ABOUT = {"made_by": "test", "seed": 5}


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*.*") if path.name != ".lock"}


def test_a_set_has_its_records_and_its_manifest(written: Path) -> None:
    manifest = json.loads((written / "manifest.json").read_bytes())
    assert [record["rows"] for record in manifest["shards"]] == [16, 16, 16, 4]
    for number, record in enumerate(manifest["shards"]):
        content = (written / "data" / record["file"]).read_bytes()
        assert (record["size"], record["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
        assert json.loads(shards.record_path(written, number).read_bytes()) == record
    about = json.loads((written / "set.json").read_bytes())
    assert about["provenance"] == {"is_synthetic": True, **ABOUT}
    assert len(about["schema"]["questions"]) == 11


def test_pixels_lie_raw_in_the_file(tmp_path: Path, flux: Frame, make: Any) -> None:
    galaxies = make(200)
    with SetWriter(tmp_path / "set", flux, ABOUT) as writer:
        writer.write(0, galaxies)
    file = pq.ParquetFile(tmp_path / "set" / "data" / "shard-00000.parquet")
    assert [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)] == [128, 72]
    assert galaxies.images[150].numpy().tobytes() in (tmp_path / "set" / "data" / "shard-00000.parquet").read_bytes()


def test_a_killed_writer_goes_on_to_the_same_bytes(tmp_path: Path, written: Path, flux: Frame, make: Any) -> None:
    folder = tmp_path / "again"
    with SetWriter(folder, flux, ABOUT, 16) as writer:
        writer.write(2, make(16, 32))
        writer.write(0, make(16))
    # What a kill between file and record leaves, and one inside a commit.
    (folder / "data" / "shard-00001.parquet").write_bytes(b"half")
    (folder / "data" / ".tmp-shard-00003.parquet-1-ab").write_bytes(b"half")
    with SetWriter(folder, flux, ABOUT, 16) as writer:
        assert writer.done() == {0, 2}
        assert not writer.finished
        writer.write(1, make(16, 16))
        writer.write(3, make(4, 48))
        writer.finish()
    assert digests(folder) == digests(written)


def test_a_finished_set_asked_for_again_is_left_as_it_is(written: Path, flux: Frame, make: Any) -> None:
    before = digests(written)
    with SetWriter(written, flux, ABOUT, 16) as writer:
        assert writer.finished
        assert writer.done() == {0, 1, 2, 3}
        assert writer.finish()["rows"] == 52
        with pytest.raises(Mismatch, match="already there"):
            writer.write(4, make(4, 52))
    assert digests(written) == before


@pytest.mark.parametrize(
    ("provenance", "rows", "words"),
    [
        ({"made_by": "test", "seed": 6}, 16, "provenance.seed is 5, not 6"),
        ({"made_by": "test"}, 16, "provenance.seed is 5, which was not asked for"),
        (ABOUT, 32, "shard_rows is 16, not 32"),
        ({**ABOUT, "is_synthetic": False}, 16, "provenance.is_synthetic is True, not False"),
    ],
)
def test_another_sets_folder_is_refused(written: Path, flux: Frame, provenance: dict[str, Any], rows: int, words: str) -> None:
    with pytest.raises(Mismatch, match=words):
        SetWriter(written, flux, provenance, rows)


def test_a_strangers_folder_is_not_touched(tmp_path: Path, flux: Frame) -> None:
    (tmp_path / "letters.txt").write_text("dear")
    (tmp_path / ".tmp-mine").write_text("mine")
    with pytest.raises(GalaxySDError, match="not empty, and nothing is overwritten"):
        SetWriter(tmp_path, flux, ABOUT)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".tmp-mine", "letters.txt"]


def test_two_writers_on_one_folder_one_proceeds(tmp_path: Path, flux: Frame, make: Any) -> None:
    with SetWriter(tmp_path / "set", flux, ABOUT) as writer:
        with pytest.raises(Mismatch, match="another process is working in this folder"):
            SetWriter(tmp_path / "set", flux, ABOUT)
        writer.write(0, make(3))
        writer.finish()
    assert len(open_set(tmp_path / "set")) == 3


def test_a_gap_an_empty_set_and_a_wrong_number_of_rows(tmp_path: Path, flux: Frame, make: Any) -> None:
    with SetWriter(tmp_path / "set", flux, ABOUT, 4) as writer:
        with pytest.raises(GalaxySDError, match="shard 0 of 1 was never written"):
            writer.finish()
        writer.write(1, make(4))
        with pytest.raises(GalaxySDError, match="shard 0 of 2 was never written"):
            writer.finish()
        with pytest.raises(Mismatch, match="never overwritten"):
            writer.write(1, make(4))
        with pytest.raises(GalaxySDError, match="5 galaxies; a shard of this set holds 1 to 4"):
            writer.write(0, make(5))
    with pytest.raises(GalaxySDError, match="shard_rows: 0"):
        SetWriter(tmp_path / "other", flux, ABOUT, 0)


def test_a_damaged_shard_of_an_unfinished_set_is_named(tmp_path: Path, flux: Frame, make: Any) -> None:
    with SetWriter(tmp_path / "set", flux, ABOUT) as writer:
        writer.write(0, make(4))
        path = tmp_path / "set" / "data" / "shard-00000.parquet"
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(BadInput, match=r"shard-00000.parquet: missing or not of .* remove shard-00000.json"):
            writer.done()


def test_a_failed_shard_leaves_no_trace(tmp_path: Path, flux: Frame, make: Any) -> None:
    galaxies = make(4)
    galaxies.images[2] = float("nan")
    with SetWriter(tmp_path / "set", flux, ABOUT) as writer:
        with pytest.raises(BadInput, match=r"shard-00000.parquet: galaxy 'g-2' has pixels that are NaN"):
            writer.write(0, galaxies)
        assert writer.done() == set()
