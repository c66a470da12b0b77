"""Several sources read as one, for a model that should know more than one population."""

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
