"""The sample grid of a run: what the averaged weights draw now, for the same seed each time, so that runs can be compared by eye."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from galaxysd.data import transforms, writers
from galaxysd.data.conditions import TYPICAL_VOTERS, Conditions
from galaxysd.sample.generate import load
from galaxysd.sample.requests import requested

ROWS = ("smooth round", "cigar", "edge-on", "spiral", "irregular")
COLUMNS = 8


def write(run: Path, folder: Path, step: int, asked: Sequence[str] = ROWS) -> Path | None:
    """Draws one row of galaxies for each of a few answers into `samples/`; gives the picture's path, None without Pillow."""
    try:
        import PIL  # noqa: F401
    except ImportError:
        return None
    path = run / "samples" / f"step-{step:08d}.png"
    if not path.exists():
        generator = load(folder)
        parts = [requested(row, COLUMNS, TYPICAL_VOTERS, generator.schema)[0] for row in asked]
        drawn = generator.sample(Conditions(*(torch.cat([getattr(part, name) for part in parts]) for name in ("counts", "numeric"))))
        writers.grid(path, transforms.pictures(drawn.galaxies.images, drawn.frame), columns=COLUMNS, labels=list(asked))
    return path
