"""What a job asks for: a table of conditions beside the plan, which galaxy i reads at row i modulo its length, a span at a time.

One row for every galaxy alike, a row an answer for equal counts, eleven for a sweep, or a table of the user's of any length: it is
written and read in pieces, never held.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from galaxysd import files
from galaxysd.data import conditions, readers
from galaxysd.data.conditions import Conditions
from galaxysd.data.galaxies import NUMERIC
from galaxysd.data.schema import Schema, resolve
from galaxysd.errors import BadInput, GalaxySDError
from galaxysd.sample.requests import of_table

PIECE = 8192  # rows of a row group
STEPS = 11  # of a sweep: 0, 0.1, ..., 1


def balanced(text: str, voters: float, schema: Schema) -> Conditions:
    """A row for each answer named, or for each answer of the question named: equal counts to within one."""
    if text in {question.name for question in schema.questions}:
        answers = list(schema.questions[schema.number(text)].canonical)
    else:
        answers = [resolve(word.strip(), schema) for word in text.split(",") if word.strip()]
    if len(set(answers)) < 2:
        raise GalaxySDError(f"--balance {text}: {len(set(answers))} answers; name a question, or two answers and more")
    return joined([conditions.parse_votes(f"{answer}={conditions.ASKED}", voters, schema)[0] for answer in answers])


def swept(text: str, voters: float, schema: Schema) -> Conditions:
    """One answer from nobody's to everybody's in eleven steps."""
    answer = resolve(text, schema)
    return joined([conditions.parse_votes(f"{answer}={step / (STEPS - 1)}", voters, schema)[0] for step in range(STEPS)])


def joined(rows: list[Conditions]) -> Conditions:
    return Conditions(torch.cat([row.counts for row in rows]), torch.cat([row.numeric for row in rows]))


def of_file(path: Path, voters: float, schema: Schema) -> Iterator[Conditions]:
    """The conditions of a set or a Parquet table, a piece at a time."""
    if path.is_dir():
        found = readers.open_set(path)
        for number in range(len(found.chunk_rows)):
            part = found.load(number)
            yield conditions.asked(part) if part.cond_counts is not None else conditions.of(part)
        return
    # Whether a question holds counts or fractions is a matter of the whole table: a first reading finds the largest sum.
    largest = torch.zeros(len(schema.questions))
    for piece in _pieces(path, schema):
        largest = torch.maximum(largest, schema.voters(piece.counts).amax(0))
    scale = torch.where(largest <= 1 + 1e-3, voters, 1.0)[schema.owner]
    for piece in _pieces(path, schema):
        yield Conditions(piece.counts * scale, piece.numeric)


def _pieces(path: Path, schema: Schema) -> Iterator[Conditions]:
    try:
        with pq.ParquetFile(path) as file:
            rows = 0
            for batch in file.iter_batches(PIECE):
                try:
                    yield of_table(pa.table(batch), 1.0, schema)
                except GalaxySDError as error:
                    raise BadInput(f"--like {path}: rows {rows} to {rows + batch.num_rows - 1}: {error}") from error
                rows += batch.num_rows
    except (OSError, pa.ArrowException) as error:
        raise BadInput(f"--like {path}: not a set, and not a Parquet table ({str(error).splitlines()[0]})") from error


def write(path: Path, pieces: Iterator[Conditions], schema: Schema, numbers: Tensor | None) -> tuple[files.Digest, int]:
    """Commits the table of conditions; gives its digest and its rows. `numbers` stand in for what a row does not say."""
    rows = 0

    def put(file: Any) -> None:
        nonlocal rows
        names = [*schema.answers, *NUMERIC]
        columns = pa.schema([(name, pa.float32()) for name in names])
        with pq.ParquetWriter(file, columns, compression="zstd", write_page_checksum=True) as writer:
            for piece in pieces:
                numeric = piece.numeric if numbers is None else torch.where(piece.numeric.isnan(), numbers, piece.numeric)
                check(piece.counts, numeric, rows)
                values = torch.cat((piece.counts, numeric), 1).float().numpy()
                table = pa.table({name: values[:, column] for column, name in enumerate(names)}, columns)
                writer.write_table(table, PIECE)
                rows += len(piece)

    found = files.commit(path, put)
    if not rows:
        raise BadInput(f"{path}: no rows to ask for")
    return found, rows


def check(counts: Tensor, numeric: Tensor, first: int) -> None:
    """Refuses a condition that no galaxy can have, by its row."""
    lengths = [column for column, name in enumerate(NUMERIC) if name != "magnitude"]
    bad = ~(counts.isfinite() & (counts >= 0)).all(1) | numeric.isinf().any(1) | (numeric[:, lengths] < 0).any(1)
    if bool(bad.any()):
        row = int(bad.nonzero()[0, 0])
        raise BadInput(f"conditions: row {first + row} has negative or infinite values ({int(bad.sum())} rows here do); leave them out")


class Table:
    """The conditions of a job on disk, read by row groups."""

    def __init__(self, path: Path, schema: Schema) -> None:
        try:
            self._file = pq.ParquetFile(path, page_checksum_verification=True)
        except (OSError, pa.ArrowException) as error:
            raise BadInput(f"{path}: not readable ({str(error).splitlines()[0]}); put the planned one back") from error
        self.path, self.answers = path, len(schema.answers)
        self.rows = self._file.metadata.num_rows
        self._first = np.cumsum([0, *(self._file.metadata.row_group(k).num_rows for k in range(self._file.metadata.num_row_groups))])
        self._held: tuple[int, Tensor] | None = None

    def span(self, wanted: range) -> Conditions:
        """The conditions of galaxies `wanted`."""
        return self.at(torch.arange(wanted.start, wanted.stop))

    def at(self, index: Tensor) -> Conditions:
        """The conditions of galaxies `index` [B]."""
        rows = (index % self.rows).numpy()
        groups = np.searchsorted(self._first, rows, side="right") - 1
        values = torch.empty(len(rows), self.answers + len(NUMERIC))
        for group in np.unique(groups):
            here = np.flatnonzero(groups == group)
            values[torch.from_numpy(here)] = self._group(int(group))[torch.from_numpy(rows[here] - self._first[group])]
        return Conditions(values[:, : self.answers].clone(), values[:, self.answers :].clone())

    def _group(self, group: int) -> Tensor:
        if self._held is None or self._held[0] != group:
            try:
                table = self._file.read_row_group(group)
            except (OSError, pa.ArrowException) as error:
                raise BadInput(f"{self.path}: row group {group} is damaged ({str(error).splitlines()[0]})") from error
            self._held = (group, torch.from_numpy(np.stack([column.to_numpy() for column in table.columns], 1)))
        return self._held[1]
