"""A whole set passes, and each kind of damage is found and named."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from galaxysd.data import layout
from galaxysd.data.check import check_set
from galaxysd.data.galaxies import Frame
from galaxysd.data.shards import SetWriter
from galaxysd.errors import BadInput


def test_a_whole_set_and_what_it_adds_up_to(written: Path, make: Any) -> None:
    report = check_set(written)
    assert (report["ok"], report["rows"], report["shards"], report["problems"]) == (True, 52, 4, [])
    counts = make(52).counts
    assert report["questions"]["bar"]["votes"] == dict(zip(("yes", "no"), counts[:, 5:7].sum(0).tolist(), strict=True))
    assert report["questions"]["bar"]["asked"] == int((counts[:, 5:7].sum(1) > 0).sum())
    assert report["questions"]["how-rounded"]["asked"] == 0


@pytest.mark.parametrize("number", range(4))
def test_one_flipped_bit_anywhere_is_found(written: Path, number: int) -> None:
    path = written / "data" / f"shard-{number:05d}.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) * (2 * number + 1) // 8] ^= 16
    path.write_bytes(content)
    report = check_set(written)
    assert not report["ok"]
    assert report["problem_count"] == 1
    assert path.name in report["problems"][0]
    assert report["rows"] == 52 - (4 if number == 3 else 16)


def test_all_problems_are_told_not_only_the_first(written: Path) -> None:
    (written / "data" / "shard-00000.parquet").unlink()
    (written / "data" / "shard-00002.json").unlink()
    (written / "data" / "shard-00009.parquet").write_bytes(b"left over")
    report = check_set(written)
    assert [next(k for k in "029" if f"shard-0000{k}" in problem) for problem in report["problems"]] == ["0", "2", "9"]


def test_one_id_in_two_shards_is_found(tmp_path: Path, flux: Frame, make: Any) -> None:
    with SetWriter(tmp_path / "set", flux, {}) as writer:
        writer.write(0, make(4))
        writer.write(1, make(4, first=3))
        writer.finish()
    report = check_set(tmp_path / "set")
    assert (report["ok"], report["duplicates"]) == (False, 1)
    assert "the id 'g-3' is in shards 0 and 1" in report["problems"][0]


def test_pixels_that_are_not_finite_are_found(tmp_path: Path, flux: Frame, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    galaxies = make(4)
    galaxies.images[2, 0, 0, 0] = torch.nan
    # A stranger's writer that does not look.
    with monkeypatch.context() as careless:
        careless.setattr(layout, "validate", lambda *_: None)
        with SetWriter(tmp_path / "set", flux, {}) as writer:
            writer.write(0, galaxies)
            writer.finish()
    assert "shard-00000.parquet: galaxy 'g-2' has pixels that are NaN" in check_set(tmp_path / "set")["problems"][0]


def test_an_unfinished_set_cannot_be_checked(written: Path) -> None:
    (written / "manifest.json").unlink()
    with pytest.raises(BadInput, match="unfinished"):
        check_set(written)


def test_a_set_without_its_shards_is_a_problem_not_a_crash(written: Path) -> None:
    shutil.rmtree(written / "data")
    report = check_set(written)
    assert not report["ok"]
    assert report["rows"] == 0
