"""From what a person asks for (votes, answers, numbers, a table) to conditions, one row a galaxy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from galaxysd.data import conditions
from galaxysd.data.conditions import Conditions
from galaxysd.data.galaxies import NUMERIC
from galaxysd.data.schema import Schema, resolve
from galaxysd.errors import BadInput, GalaxySDError, nearest


def requested(asked: Any, n: int | None, voters: float, labels: Schema) -> tuple[Conditions, list[str]]:
    """Conditions for n galaxies, and a line for each ancestor that was filled in. One row asked for is repeated n times."""
    filled: list[str] = []
    if asked is None:
        rows = Conditions.unknown(1, labels)
    elif isinstance(asked, Conditions):
        rows = asked
    elif isinstance(asked, str):
        rows, filled = (conditions.parse_votes if "=" in asked else conditions.parse_ask)(asked, voters, labels)
    else:
        rows = of_table(asked, voters, labels)
    return repeated(rows, n), filled


def repeated(rows: Conditions, n: int | None) -> Conditions:
    """The first n rows, or one row n times."""
    if n is None or n == len(rows):
        return rows
    if n < 1:
        raise GalaxySDError(f"n: {n}; give at least 1")
    if len(rows) == 1:
        return rows.rows(torch.zeros(n, dtype=torch.int64))
    if n > len(rows):
        raise GalaxySDError(f"n: {n} galaxies asked for, the table has {len(rows)} rows; leave n out or give at most {len(rows)}")
    return rows.rows(torch.arange(n))


def of_table(table: Any, voters: float, labels: Schema) -> Conditions:
    """Conditions of a table (a mapping of columns, pyarrow, astropy or pandas): vote columns and numeric columns, nulls unknown.

    A question whose fractions reach no more than 1 is read as conditional fractions of `voters` volunteers, else as counts.
    """
    columns = _columns(table)
    counts: dict[int, Tensor] = {}
    numeric: dict[int, Tensor] = {}
    for name, values in columns.items():
        plain = name.removeprefix("cond_")
        if plain in NUMERIC:
            numeric[NUMERIC.index(plain)] = _numbers(name, values)
        elif plain not in ("id", "index", "seed", "is_synthetic", "provenance"):
            try:
                column = labels.index(resolve(plain, labels))
            except BadInput as error:
                known = (*labels.answers, *NUMERIC)
                raise BadInput(f"table: column {name!r} is neither an answer nor a number to ask for{nearest(name, known)}") from error
            counts[column] = _numbers(name, values)
    if not counts and not numeric:
        raise BadInput("table: no column is an answer or a number to ask for, so it asks for nothing")
    lengths = {len(values) for values in (*counts.values(), *numeric.values())}
    if len(lengths) > 1:
        raise BadInput(f"table: columns of {min(lengths)} and of {max(lengths)} rows; give one value a galaxy in each")
    rows = lengths.pop()
    wanted = Conditions.unknown(rows, labels)
    for column, values in counts.items():
        wanted.counts[:, column] = values
    for column, values in numeric.items():
        wanted.numeric[:, column] = values
    present = torch.zeros(len(labels.answers), dtype=torch.bool)
    present[list(counts)] = True
    for question, part in zip(labels.questions, labels.slices, strict=True):
        if not bool(present[part].any()):
            continue
        block = wanted.counts[:, part]
        if bool(block.isinf().any()):
            raise BadInput(f"table: votes of {question.name} are infinite in {int(block.isinf().any(1).sum())} rows; leave those rows out")
        if bool((block < 0).any()):
            raise BadInput(f"table: votes of {question.name} go down to {float(block[~block.isnan()].min()):g}; they cannot be negative")
        unknown = block.isnan().all(1)
        block = torch.where(block.isnan(), torch.zeros_like(block), block)
        total = block.sum(1)
        if bool((total <= 1 + 1e-3).all()):
            block = block * voters
        wanted.counts[:, part] = torch.where(unknown[:, None], torch.zeros_like(block), block)
    return wanted


def _columns(table: Any) -> dict[str, Any]:
    if isinstance(table, Mapping):
        return {str(name): values for name, values in table.items()}
    names = getattr(table, "column_names", None) or getattr(table, "colnames", None)
    if names is None and hasattr(table, "columns"):
        names = list(table.columns)
    if names is None:
        raise GalaxySDError(f"a {type(table).__name__} cannot be asked for; give votes, answers, a table, a mapping of columns or None")
    return {str(name): table[name] for name in names}


def _numbers(name: str, values: Any) -> Tensor:
    try:
        plain = values.to_pandas().to_numpy() if hasattr(values, "to_pandas") and not hasattr(values, "to_numpy") else values
        plain = plain.to_numpy() if hasattr(plain, "to_numpy") else np.atleast_1d(np.asarray(plain))
        plain = plain.filled(np.nan) if hasattr(plain, "filled") else plain
        return torch.from_numpy(np.asarray([np.nan if each is None else each for each in plain], dtype=np.float32))
    except (TypeError, ValueError) as error:
        raise BadInput(f"table: column {name!r} is not numeric ({error})") from error
