"""`galaxysd gallery SET --out PAGE`: writes the page, with measured votes where a judge or a table has them."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from galaxysd import files
from galaxysd.data.galaxies import Frame, Galaxies
from galaxysd.data.readers import open_set
from galaxysd.errors import BadInput, GalaxySDError
from galaxysd.gallery import page, rows

LIMIT = 400


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `galaxysd gallery`."""
    parser.add_argument("set", type=Path, metavar="SET", help="the set to look at")
    parser.add_argument("--against", type=Path, metavar="DATA", help="another set, shown beside it under the same filter")
    parser.add_argument("--out", type=Path, required=True, metavar="PAGE", help="the page, a new .html file")
    parser.add_argument("--limit", type=int, default=LIMIT, help=f"show the first so many galaxies of each set (default {LIMIT})")
    parser.add_argument("--measured", type=Path, metavar="TABLE", help="Parquet with id and answer columns: votes instead of the judge's")
    parser.add_argument("--title", help="the page's title (default: the name of SET)")


def run(args: argparse.Namespace) -> int:
    """Builds the page, commits it, says where it is."""
    if args.limit < 1:
        raise GalaxySDError(f"--limit: {args.limit} galaxies; must be at least 1")
    if args.out.exists():
        raise GalaxySDError(f"{args.out}: already there, and nothing is overwritten; give another name")
    sets = [(folder, open_set(folder)) for folder in (args.set, args.against) if folder is not None]
    table = None if args.measured is None else read_measured(args.measured)
    judge, why = (None, "") if table is not None else find_judge()
    batches: dict[str, page.Batch | None] = {}
    provenance: dict[str, dict[str, Any]] = {}
    notes: list[str] = []
    for folder, each in sets:
        galaxies = each.read(args.limit)
        name = rows.kind(galaxies, each.provenance)
        name = name if name not in batches else f"{name}, {folder.name}"
        measured: Tensor | None = None
        if table is not None:
            measured = look_up(table, galaxies, each.frame, args.measured)
            missing = int((~measured.isfinite().any(1)).sum())
            if missing:
                notes.append(f"{missing} of {len(galaxies)} {name} galaxies have no votes in {args.measured.name}: not measured.")
        elif judge is None:
            notes.append(f"Votes of the {name} galaxies are not measured: {why}.")
        else:
            measured, trouble = judged(judge, galaxies, each.frame)
            if trouble:
                notes.append(f"Votes of the {name} galaxies are not measured: {trouble}.")
        if len(galaxies) < len(each):
            notes.append(f"The first {len(galaxies)} of {len(each)} {name} galaxies are shown.")
        batches[name], provenance[name] = (galaxies, each.frame, measured), each.provenance
    text = page.build(batches, args.title or args.set.resolve().name, provenance=provenance, notes=notes)
    written = files.commit(args.out, lambda file: file.write(text.encode()))
    shown = " and ".join(f"{len(batch[0])} {name}" for name, batch in batches.items() if batch is not None)
    print("\n".join([*notes, f"wrote {args.out}: {shown} galaxies, {written.size / 1e6:.1f} MB; open it in a browser"]))
    return 0


def find_judge() -> tuple[Any, str]:
    """The judge that ships, or None and the reason."""
    from galaxysd.model import classifier

    try:
        return classifier.load_judge(), ""
    except GalaxySDError as error:
        return None, f"no judge ({error})"


def judged(judge: Any, galaxies: Galaxies, frame: Frame) -> tuple[Tensor | None, str]:
    """The fractions a judge expects for galaxies, [B, A], or None and why it cannot look at these."""
    try:
        return judge.fractions(galaxies, frame), ""
    except BadInput as error:
        return None, str(error)


def read_measured(path: Path) -> dict[str, dict[str, float | None]]:
    """Measured votes by id: the columns of a Parquet table that has `id` and, for each answer, counts or fractions."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise BadInput(f"{path}: no such file")
    try:
        file = pq.ParquetFile(path)
        names = file.schema_arrow.names
        if "id" not in names:
            raise BadInput(f"{path}: no column id; columns are {', '.join(names[:8])}")
        numbers = [field.name for field in file.schema_arrow if pa.types.is_floating(field.type) or pa.types.is_integer(field.type)]
        table = file.read(["id", *numbers])
    except (pa.ArrowException, OSError) as error:
        raise BadInput(f"{path}: not readable as Parquet ({str(error).splitlines()[0]})") from error
    ids = [str(name) for name in table["id"].to_pylist()]
    if len(set(ids)) < len(ids):
        raise BadInput(f"{path}: {len(ids)} rows, {len(set(ids))} different ids; an id names one galaxy")
    columns = {name: table[name].to_pylist() for name in numbers}
    return {name: {column: values[row] for column, values in columns.items()} for row, name in enumerate(ids)}


def look_up(table: dict[str, dict[str, float | None]], galaxies: Galaxies, frame: Frame, path: Path) -> Tensor:
    """The conditional fractions a table holds for galaxies, [B, A]; NaN where a galaxy, or one answer of the question, is not in it."""
    labels = frame.labels
    found = torch.full((len(galaxies), len(labels.answers)), math.nan)
    for row, name in enumerate(galaxies.ids):
        values = table.get(name, {})
        for column, answer in enumerate(labels.answers):
            value = values.get(answer)
            if value is not None:
                if not 0 <= value < math.inf:
                    raise BadInput(f"{path}: galaxy {name!r} has {answer}={value}; votes and fractions are finite and at least 0")
                found[row, column] = value
    voters = labels.voters(found)[:, labels.owner]
    found = torch.where(voters > 0, found / voters, torch.nan)
    if not bool(found.isfinite().any()):
        raise BadInput(
            f"{path}: none of its {len(table)} rows has votes for one of the {len(galaxies)} galaxies; ids must be theirs, "
            f"and a question needs a column for each of its answers, such as {' and '.join(labels.questions[0].canonical)}"
        )
    return found
