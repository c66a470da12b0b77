"""`galaxysd classify predict`: how volunteers would vote on the galaxies of a set, by the shipped judge or a classifier of your own."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

from torch import Tensor

from galaxysd import files
from galaxysd.data import readers
from galaxysd.data.galaxies import Frame, Galaxies
from galaxysd.data.schema import Schema
from galaxysd.errors import GalaxySDError
from galaxysd.model.classifier import JUDGE, Judge, load_judge

ASKED = 0.5  # share of the volunteers below which a question counts as not asked


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("set", metavar="SET", type=Path, help="the set to look at")
    parser.add_argument("--model", default=JUDGE, help="a classifier: a run folder, a checkpoint or a bundled name (%(default)s)")
    parser.add_argument("--embedding", action="store_true", help="also the last hidden layer, one column of lists")
    parser.add_argument("--symmetries", action="store_true", help="the mean over all eight turned and mirrored views: eight times the work")
    parser.add_argument("--voters", type=float, default=40.0, help="volunteers whose votes are expected (%(default)g)")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path, required=True, help="the Parquet table to write")


def run(args: argparse.Namespace) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if args.out.exists():
        raise GalaxySDError(f"--out {args.out}: already there, and nothing is overwritten; give another name")
    if not 0 < args.voters < math.inf:
        raise GalaxySDError(f"--voters: {args.voters:g}; a positive number of volunteers is needed")
    judge, found = load_judge(args.model, args.symmetries), readers.open_set(args.set)
    parts = []
    for number in range(len(found.chunk_rows)):
        galaxies = found.load(number)
        alpha, embedded = judge.judged(galaxies, found.frame)
        columns: dict[str, object] = {"id": galaxies.ids, "index": galaxies.index.numpy(), **predicted(alpha, judge.labels, args.voters)}
        if args.embedding:
            columns["embedding"] = list(embedded.numpy())
        parts.append(pa.table(columns))
    table = pa.concat_tables(parts)
    files.commit(args.out, lambda file: pq.write_table(table, file))
    written = {"out": str(args.out), "rows": table.num_rows, "judge": judge.path.stem, "judge_sha256": judge.digest.sha256}
    print(json.dumps(written) if args.json else f"{table.num_rows} galaxies judged by {judge.path.stem}: {args.out}")


def predicted(alpha: Tensor, labels: Schema, voters: float) -> dict[str, object]:
    """The columns of a table of predictions from concentrations [B, A], named question_answer_what as Zoobot's users know them.

    `concentration` of the Dirichlet; `fraction` of those asked, with its standard deviation `std`; `cumulative` share of all volunteers,
    whose answers sum to what their parents send on; `votes` of `voters` volunteers, null (not asked) where fewer than half get to the
    question. For each question `proportion_asked`.
    """
    import pyarrow as pa

    alpha = alpha.double()
    fractions = labels.fractions(alpha)
    reach = labels.reach(fractions)
    spread = (fractions * (1 - fractions) / (labels.voters(alpha)[:, labels.owner] + 1)).sqrt()
    cumulative = reach[:, labels.owner] * fractions
    asked = reach[:, labels.owner] >= ASKED
    columns: dict[str, object] = {}
    for number, question in enumerate(labels.questions):
        columns[f"{question.name}_proportion_asked"] = reach[:, number].numpy()
    for column, answer in enumerate(labels.answers):
        columns[f"{answer}_concentration"] = alpha[:, column].numpy()
        columns[f"{answer}_fraction"] = fractions[:, column].numpy()
        columns[f"{answer}_std"] = spread[:, column].numpy()
        columns[f"{answer}_cumulative"] = cumulative[:, column].numpy()
        votes = (voters * cumulative[:, column]).tolist()
        known = [each if there else None for each, there in zip(votes, asked[:, column].tolist(), strict=True)]
        columns[f"{answer}_votes"] = pa.array(known, pa.float64())  # of one type even where nobody is asked
    return columns


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
