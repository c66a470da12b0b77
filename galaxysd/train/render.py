"""Simulated galaxies rendered once, by every core, into sets that all calls of a run read: a piece does not wait for them again.

The sets are of a fixed number of galaxies, so that a call can end between two of them. What is read is what would have been rendered,
byte for byte: a run may be continued with or without them.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from galaxysd.data.galaxies import Frame, Galaxies
from galaxysd.data.mixed import Mixed
from galaxysd.data.readers import Source, open_set
from galaxysd.errors import GalaxySDError, Stopped
from galaxysd.simulate.command import write_set
from galaxysd.simulate.survey import SimulatedSource
from galaxysd.train.loop import Piece

PART = 8192  # galaxies in a set, in whole chunks: a minute of two cores


class Rendered:
    """A simulated source that is read from the sets it was rendered into."""

    def __init__(self, source: SimulatedSource, parts: Sequence[Source]) -> None:
        self.source, self.parts = source, Mixed(parts)
        self.frame: Frame = source.frame
        self.chunk_rows: Sequence[int] = source.chunk_rows

    def load(self, k: int) -> Galaxies:
        return self.parts.load(k)

    def describe(self) -> dict[str, Any]:
        return self.source.describe()


def rendered(source: SimulatedSource, folder: Path, piece: Piece | None = None, render: bool = True) -> Rendered:
    """Renders what is not in `folder` yet; Stopped when the piece is over before all of it is. Without `render` all of it is there."""
    if PART % source.chunk:
        raise GalaxySDError(f"chunks of {source.chunk} galaxies do not fill sets of {PART}; take a divisor of it")
    parts: list[Source] = []
    made = 0
    for start in range(0, source.n, PART):
        if made and piece is not None and piece.over:  # the shortest piece gets on
            raise Stopped(
                f"{folder}: a piece of {piece.minutes:g} minutes is over with {start} of {source.n} galaxies; the same command goes on"
            )
        first = source.first + start
        part = dataclasses.replace(source, first=first, n=min(PART, source.n - start))
        where = folder / f"{first:010d}-{part.n}"
        if render:
            made += write_set(part, where, len(os.sched_getaffinity(0)))[1]
        parts.append(open_set(where))
    return Rendered(source, parts)
