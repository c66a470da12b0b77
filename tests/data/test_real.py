"""Real galaxies where they lie: which table is meant, that it is imported once, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from galaxysd.cli import main
from galaxysd.data import real
from galaxysd.errors import BadInput
from tests.data.test_importing import encoded, pixels, write

pytest.importorskip("PIL.Image", reason="needs Pillow")


def pictured(path: Path, n: int = 40, **columns: object) -> Path:
    return write(path, stamp=[encoded(pixels(number, 16)) for number in range(n)], **columns)


def test_a_table_in_a_folder_becomes_a_set_once(tmp_path: Path):
    (tmp_path / "sky").mkdir()
    file = pictured(tmp_path / "sky" / "cutouts.parquet", bar_yes=range(40), redshift=[0.1] * 40, note=["n"] * 40)
    write(tmp_path / "sky" / "votes.parquet", bar_yes=[1, 2])
    found = real.imported(tmp_path / "sky", 8, tmp_path / "keep")
    assert len(found) == 40
    assert found.frame.size == 8
    galaxies = found.load(0)
    assert float(galaxies.counts.sum()) == sum(range(40))
    assert galaxies.numeric[:, 0].tolist() == pytest.approx([0.1] * 40)
    assert not found.provenance["is_synthetic"]
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "keep").rglob("*.parquet")}
    assert real.imported(file, 8, tmp_path / "keep").folder == found.folder
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "keep").rglob("*.parquet")} == written
    other = real.imported(pictured(tmp_path / "cutouts.parquet", n=3), 8, tmp_path / "keep")  # another file of that name
    assert other.folder != found.folder


def test_what_cannot_be_meant_is_refused_in_words(tmp_path: Path):
    with pytest.raises(BadInput, match="no such file or folder; give a Parquet table"):
        real.imported(tmp_path / "absent", 8, tmp_path / "keep")
    write(tmp_path / "votes.parquet", bar_yes=[1, 2])
    with pytest.raises(BadInput, match="no table with one column of bytes"):
        real.imported(tmp_path, 8, tmp_path / "keep")
    pictured(tmp_path / "a.parquet", n=2)
    pictured(tmp_path / "b.parquet", n=2)
    with pytest.raises(BadInput, match=r"a\.parquet, b\.parquet all hold pictures"):
        real.imported(tmp_path, 8, tmp_path / "keep")
    (tmp_path / "text.parquet").write_text("galaxies")
    with pytest.raises(BadInput, match="not a Parquet table"):
        real.imported(tmp_path / "text.parquet", 8, tmp_path / "keep")


def test_a_model_trains_on_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = pictured(tmp_path / "cutouts.parquet")
    words = ["train", "--real-data", str(file), "--steps", "2", "--out", str(tmp_path / "run"), "--set", "train.batch=4"]
    tiny = ["model.image_size=8", "model.channels=[16]", "model.attention=[]", "sample.steps=2", "train.grid_minutes=0", "train.threads=1"]
    for each in tiny:
        words += ["--set", each]
    assert main(words) == 2
    assert "say where it is kept: --keep FOLDER" in capsys.readouterr().err
    assert main([*words, "--keep", str(tmp_path / "keep")]) == 0
    assert (tmp_path / "run" / "checkpoints" / "step-00000002").is_dir()
