"""Galaxies rendered into sets: the same bytes as without, in parts between which a call can end."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from galaxysd.errors import GalaxySDError, Stopped
from galaxysd.simulate.survey import SimulatedSource
from galaxysd.train import render
from galaxysd.train.loop import Piece


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(render, "PART", 64)


def test_what_is_read_is_what_would_have_been_rendered(tmp_path: Path):
    source = SimulatedSource("tutorial", 3, 256, 160, 16, chunk=64)
    found = render.rendered(source, tmp_path)
    assert found.frame == source.frame
    assert found.describe() == source.describe()
    assert list(found.chunk_rows) == [64, 64, 32]
    for k in range(3):
        mine, theirs = found.load(k), source.load(k)
        assert mine.ids == theirs.ids
        assert torch.equal(mine.images, theirs.images)
        assert torch.equal(mine.counts, theirs.counts)
        assert torch.equal(mine.index, theirs.index)
        assert torch.allclose(mine.numeric, theirs.numeric, rtol=0, atol=0, equal_nan=True)


def test_a_piece_ends_between_two_parts_and_the_next_goes_on(tmp_path: Path):
    source = SimulatedSource("tutorial", 3, 0, 192, 16, chunk=64)
    with pytest.raises(Stopped, match="over with 64 of 192 galaxies; the same command goes on"):
        render.rendered(source, tmp_path, Piece(1e-9))
    first = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}
    assert len(first) == 1
    with pytest.raises(Stopped, match="over with 128 of 192"):
        render.rendered(source, tmp_path, Piece(1e-9))
    assert len(render.rendered(source, tmp_path, Piece(1e-9)).chunk_rows) == 3
    assert {path: path.stat().st_mtime_ns for path in first} == first


def test_chunks_must_fill_parts(tmp_path: Path):
    with pytest.raises(GalaxySDError, match="chunks of 24 galaxies do not fill sets of 64"):
        render.rendered(SimulatedSource("tutorial", 3, 0, 128, 16, chunk=24), tmp_path)
