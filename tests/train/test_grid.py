"""The sample grid of a run: a row for each answer, the same for the same weights, never drawn over."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from galaxysd.train import grid
from tests import tiny

Image = pytest.importorskip("PIL.Image")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("grid") / "run"
    tiny.run(out, "train.steps=2", "sample.guidance=1.0")
    return out


def test_it_shows_each_answer_and_is_the_same_for_the_same_weights(run: Path, tmp_path: Path):
    folder, before = run / "checkpoints" / "step-00000002", torch.get_num_threads()
    path = grid.write(tmp_path, folder, 2)
    assert path == tmp_path / "samples" / "step-00000002.png"
    again = grid.write(tmp_path, folder, 3)
    assert path.read_bytes() == again.read_bytes()
    with Image.open(path) as image:
        assert image.width >= grid.COLUMNS * 8
        assert image.height >= len(grid.ROWS) * 8
    assert torch.get_num_threads() == before


def test_a_grid_that_is_there_is_left_alone(run: Path, tmp_path: Path):
    path = tmp_path / "samples" / "step-00000002.png"
    path.parent.mkdir()
    path.write_text("dear diary")
    assert grid.write(tmp_path, run / "checkpoints" / "step-00000002", 2) == path
    assert path.read_text() == "dear diary"


def test_without_pillow_there_is_no_grid(run: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert grid.write(tmp_path, run, 2) is None
    assert not (tmp_path / "samples").exists()
