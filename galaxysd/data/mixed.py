"""Sources made of sources: several read as one, and one that keeps what it has loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from galaxysd.data.galaxies import Frame, Galaxies
from galaxysd.data.readers import Source
from galaxysd.data.schema import schema
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


class Repeated:
    """A source that is read several times over: a share of a mixture larger than its own."""

    def __init__(self, source: Source, times: int) -> None:
        self.source, self.times, self.frame = source, times, source.frame
        self.chunk_rows: Sequence[int] = list(source.chunk_rows) * times

    def load(self, k: int) -> Galaxies:
        return self.source.load(k % len(self.source.chunk_rows))

    def describe(self) -> dict[str, Any]:
        return {**self.source.describe(), "times": self.times}


class Labelled:
    """A source under a schema that has its own answers and more; every galaxy got these votes for the answers that are new."""

    def __init__(self, source: Source, name: str, votes: Mapping[str, float]) -> None:
        self.source, self.votes, self.frame = source, dict(votes), replace(source.frame, schema=name)
        self.chunk_rows: Sequence[int] = source.chunk_rows
        old, new = source.frame.labels, schema(name)
        missing = [answer for answer in old.answers if answer not in new.answers]
        if missing:
            raise BadInput(f"labels of schema {old.name} under schema {name}: {missing[0]} is not among its answers")
        self._old = [new.index(answer) for answer in old.answers]
        self._new = {new.index(answer): count for answer, count in self.votes.items()}
        self._width = len(new.answers)

    def load(self, k: int) -> Galaxies:
        found = self.source.load(k)
        counts = found.counts.new_zeros(len(found), self._width)
        counts[:, self._old] = found.counts
        for column, count in self._new.items():
            counts[:, column] = count
        return replace(found, counts=counts, cond_counts=None, cond_numeric=None)

    def describe(self) -> dict[str, Any]:
        return {**self.source.describe(), "votes": self.votes}
