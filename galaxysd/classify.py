"""`galaxysd classify predict`: how volunteers would vote on the galaxies of a set, by the shipped judge or a classifier of your own."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from galaxysd import files
from galaxysd.data import readers
from galaxysd.data.galaxies import Frame, Galaxies
from galaxysd.errors import GalaxySDError
from galaxysd.model.classifier import JUDGE, Judge, load_judge


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("set", metavar="SET", type=Path, help="the set to look at")
    parser.add_argument("--model", default=JUDGE, help="a classifier: a run folder, a checkpoint or a bundled name (%(default)s)")
    parser.add_argument("--embedding", action="store_true", help="also the last hidden layer, one column of lists")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path, required=True, help="the Parquet table to write")


def run(args: argparse.Namespace) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if args.out.exists():
        raise GalaxySDError(f"--out {args.out}: already there, and nothing is overwritten; give another name")
    judge, found = load_judge(args.model), readers.open_set(args.set)
    parts = []
    for number in range(len(found.chunk_rows)):
        galaxies = found.load(number)
        columns: dict[str, object] = {"id": galaxies.ids, "index": galaxies.index.numpy()}
        alpha = judge.concentrations(galaxies, found.frame)
        fractions = judge.labels.fractions(alpha)
        reach = judge.labels.reach(fractions)[:, judge.labels.owner]
        for column, answer in enumerate(judge.labels.answers):
            columns[f"pred_{answer}"] = fractions[:, column].numpy()
            columns[f"concentration_{answer}"] = alpha[:, column].numpy()
            columns[f"reach_{answer}"] = (reach * fractions)[:, column].numpy()
        if args.embedding:
            columns["embedding"] = list(judge.embed(galaxies, found.frame).numpy())
        parts.append(pa.table(columns))
    table = pa.concat_tables(parts)
    files.commit(args.out, lambda file: pq.write_table(table, file))
    written = {"out": str(args.out), "rows": table.num_rows, "judge": judge.path.stem, "judge_sha256": judge.digest.sha256}
    print(json.dumps(written) if args.json else f"{table.num_rows} galaxies judged by {judge.path.stem}: {args.out}")


def rates(judge: Judge, galaxies: Galaxies, frame: Frame) -> dict[str, tuple[float, int]]:
    """For each answer that most volunteers gave, all the way down its branch, how often the judge gives it too: (rate, galaxies)."""
    labels = judge.labels
    truth, found = labels.winners(galaxies.counts), labels.winners(judge.fractions(galaxies, frame))
    given = {}
    for column, answer in enumerate(labels.answers):
        rows = truth[:, column]
        if bool(rows.any()):
            given[answer] = (float(found[rows, column].float().mean()), int(rows.sum()))
    return given
