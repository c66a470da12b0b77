"""Sources made of sources: several read as one, and one that keeps what it has loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from galaxysd.data.galaxies import Frame, Galaxies
from galaxysd.data.readers import Source
from galaxysd.errors import BadInput


class Mixed:
    """The chunks of several sources, one after another; they must hold images of one kind, size and bands."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = list(sources)
        self.frame: Frame = self.sources[0].frame
        for source in self.sources[1:]:
            mine, theirs = ((each.kind, each.size, each.bands, each.schema) for each in (self.frame, source.frame))
            if mine != theirs:
                raise BadInput(f"sources to mix differ: {mine} and {theirs}; kind, size, bands and labels must be the same")
        self.places = [(source, k) for source in self.sources for k in range(len(source.chunk_rows))]
        self.chunk_rows: Sequence[int] = [source.chunk_rows[k] for source, k in self.places]

    def load(self, k: int) -> Galaxies:
        source, chunk = self.places[k]
        return source.load(chunk)

    def describe(self) -> dict[str, Any]:
        return {"mixed": [source.describe() for source in self.sources]}


class Kept:
    """A source that loads each chunk once and keeps it: for a population small enough for memory and costly to render."""

    def __init__(self, source: Source) -> None:
        self.source, self.frame, self.chunk_rows = source, source.frame, source.chunk_rows
        self._chunks: dict[int, Galaxies] = {}

    def load(self, k: int) -> Galaxies:
        if k not in self._chunks:
            self._chunks[k] = self.source.load(k)
        return self._chunks[k]

    def describe(self) -> dict[str, Any]:
        return self.source.describe()
