"""Small populations whose every value is known, and the sets made of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from galaxysd import files, seeds
from galaxysd.data.galaxies import NUMERIC, Frame, Galaxies
from galaxysd.data.shards import SetWriter

FLUX = Frame("flux", 8, pixel_scale=0.4, psf_fwhm=(1.3, 1.2, 1.1), sky_rms=(0.02, 0.03, 0.04))
RGB = Frame("rgb", 8, bands=("r", "g", "b"), zero_points=(), unit="display")

Make = Callable[..., Galaxies]


@pytest.fixture
def flux() -> Frame:
    return FLUX


@pytest.fixture
def rgb() -> Frame:
    return RGB


@pytest.fixture
def make() -> Make:
    """Gives n galaxies of a frame from index `first` on: a function of the index alone."""

    def make(n: int, first: int = 0, frame: Frame = FLUX) -> Galaxies:
        index = torch.arange(first, first + n)
        answers = len(frame.labels.answers)
        counts = seeds.bits(0, "test-votes", index, answers).remainder(20).float()
        counts[:, frame.labels.slices[6]] = 0  # nobody was asked
        numeric = seeds.uniform(0, "test-numbers", index, (len(NUMERIC),)).float()
        numeric[index % 3 == 0, 1] = torch.nan
        if frame.kind == "flux":
            images = seeds.normal(0, "test-pixels", index, (3, frame.size, frame.size))
        else:
            words = seeds.bits(0, "test-pixels", index, 3 * frame.size**2)
            images = (words & 255).to(torch.uint8).reshape(n, 3, frame.size, frame.size)
        return Galaxies(images, counts, numeric, index, [f"g-{i}" for i in index.tolist()])

    return make


@pytest.fixture
def written(tmp_path: Path, make: Make) -> Path:
    """A finished set of 52 galaxies in shards of 16, the last one shorter."""
    folder = tmp_path / "set"
    with SetWriter(folder, FLUX, {"made_by": "test", "seed": 5}, shard_rows=16) as writer:
        for number, first in enumerate(range(0, 52, 16)):
            writer.write(number, make(min(16, 52 - first), first))
        writer.finish()
    return folder


@pytest.fixture
def edit() -> Callable[[Path, Callable[[Any], object]], None]:
    """Changes a JSON file in place, as a hand or a fault would."""

    def edit(path: Path, change: Callable[[Any], object]) -> None:
        value = json.loads(path.read_bytes())
        change(value)
        files.commit_json(path, value, replace=True)

    return edit
