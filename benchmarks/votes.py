"""`python -m benchmarks votes`: how the simulated volunteers answer on average, beside a table of Galaxy Zoo 2 counts where one is given.

Of each answer there are two marginals: the mean over galaxies of its share of the question's votes, where at least five were asked, and
its share of all votes the question got. Of a real table nothing but these means is kept.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from galaxysd import files
from galaxysd.data.schema import GZ2, meaning
from galaxysd.errors import BadInput, nearest

LEAST_VOTERS = 5
CHUNK = 2048  # simulated galaxies at a time
SIZE = 16  # pixels: votes do not depend on how finely a stamp is drawn, and nobody looks at these


@dataclass(frozen=True)
class Marginal:
    """What a crowd says of one answer; None where nobody was asked."""

    answer: str
    galaxies: int  # with at least LEAST_VOTERS at the question
    mean: float | None  # over them, of the answer's share of the question's votes
    share: float | None  # of all the question's votes


def marginals(counts: Tensor) -> list[Marginal]:
    """One for each answer of the tree, from conditional counts [N, answers]."""
    counts = counts.double()
    voters, fractions = GZ2.voters(counts), GZ2.fractions(counts)
    found = []
    for column, answer in enumerate(GZ2.answers):
        asked = voters[:, int(GZ2.owner[column])]
        many = asked >= LEAST_VOTERS
        mean = float(fractions[many, column].mean()) if bool(many.any()) else None
        share = float(counts[:, column].sum() / asked.sum()) if float(asked.sum()) > 0 else None
        found.append(Marginal(answer, int(many.sum()), mean, share))
    return found


def simulated(preset: str, seed: int, n: int) -> Tensor:
    """Counts of the first galaxies of a population: [n, answers]."""
    from galaxysd.simulate.survey import simulate

    if n < 1:
        raise BadInput(f"--n {n}: at least 1 galaxy")
    chunks = [range(start, min(start + CHUNK, n)) for start in range(0, n, CHUNK)]
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # for stamps as small as these, threads wait for one another
    try:
        return torch.cat([simulate(preset, seed, chunk, SIZE, noise=False).counts for chunk in chunks])
    finally:
        torch.set_num_threads(before)


def real(path: Path) -> tuple[Path, Tensor]:
    """The table of counts at `path`, a file or a folder with one in it, and its counts [N, answers]."""
    if not path.exists():
        raise BadInput(f"--real-data {path}: no such file or folder; give a Parquet table of Galaxy Zoo 2 counts, or a folder with one")
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    tables = {file: columns for file in files if (columns := counted(file, refuse=path.is_file())) is not None}
    if not tables:
        raise BadInput(
            f"--real-data {path}: none of its {len(files)} Parquet files counts the {len(GZ2.answers)} answers of Galaxy Zoo 2; "
            f"its columns must be named like the published ones (t01_smooth_or_features_a01_smooth_count) or {GZ2.answers[0]}"
        )
    if len(tables) > 1:
        raise BadInput(f"--real-data {path}: {', '.join(file.name for file in tables)} all hold counts; give the path of one of them")
    file, columns = next(iter(tables.items()))
    return file, read(file, columns)


def counted(file: Path, refuse: bool) -> list[str] | None:
    """The columns of a table that count the answers, in the tree's order; None, or a refusal, where one is missing."""
    try:
        names = pq.read_schema(file).names
    except (pa.ArrowException, OSError) as error:
        raise BadInput(f"{file}: not a Parquet table ({str(error).splitlines()[0]})") from error
    columns: dict[str, str] = {}
    for name in names:
        # A name that could mean two answers is not one of a table of counts.
        answer = name if name in GZ2.answers else _unambiguous(name)
        if answer is None:
            continue
        if answer in columns:
            raise BadInput(f"{file}: columns {columns[answer]!r} and {name!r} both mean {answer}; drop one of them")
        columns[answer] = name
    lacking = [answer for answer in GZ2.answers if answer not in columns]
    if lacking and refuse:
        raise BadInput(f"{file}: no column counts {lacking[0]}{nearest(lacking[0], names)}, nor {len(lacking) - 1} other answers")
    return None if lacking else [columns[answer] for answer in GZ2.answers]


def _unambiguous(name: str) -> str | None:
    try:
        return meaning(name)
    except BadInput:
        return None


def read(file: Path, columns: Sequence[str]) -> Tensor:
    """Counts [N, answers]; what is empty is nobody's vote."""
    try:
        table = pq.read_table(file, columns=list(columns))
        values = [table[name].to_numpy().astype(np.float64) for name in columns]
    except (pa.ArrowException, OSError, ValueError) as error:
        raise BadInput(f"{file}: its counts cannot be read ({str(error).splitlines()[0]})") from error
    for name, column in zip(columns, values, strict=True):
        known = column[~np.isnan(column)]
        wrong = known[(known < 0) | (known != np.floor(known)) | np.isinf(known)]
        if len(wrong):
            raise BadInput(f"{file}: column {name!r} holds {wrong[0]:g}, and votes are counted in whole people; give a table of counts")
    counts = torch.from_numpy(np.stack(values, 1))
    return torch.where(counts.isnan(), 0.0, counts)


def table(ours: list[Marginal], theirs: list[Marginal] | None) -> str:
    """Markdown: a row an answer."""
    heads = ["answer", "galaxies", "mean fraction", "share of votes"]
    if theirs is not None:
        heads = ["answer", "galaxies", "real", "mean fraction", "real", "difference", "share of votes", "real", "difference"]
    lines = [f"| {' | '.join(heads)} |", f"| --- |{' ---: |' * (len(heads) - 1)}"]
    for k, mine in enumerate(ours):
        cells = [mine.answer, str(mine.galaxies)]
        if theirs is None:
            cells += [shown(mine.mean), shown(mine.share)]
        else:
            cells.append(str(theirs[k].galaxies))
            for a, b in ((mine.mean, theirs[k].mean), (mine.share, theirs[k].share)):
                cells += [shown(a), shown(b), f"{a - b:+.3f}" if a is not None and b is not None else "-"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def distance(ours: list[Marginal], theirs: list[Marginal]) -> dict[str, float]:
    """Half the summed differences of the mean fractions of each question: the share of its votes that are elsewhere."""
    found = {}
    for question, part in zip(GZ2.questions, GZ2.slices, strict=True):
        pairs = [(a.mean, b.mean) for a, b in zip(ours[part], theirs[part], strict=True)]
        if all(a is not None and b is not None for a, b in pairs):
            found[question.name] = sum(abs(a - b) for a, b in pairs if a is not None and b is not None) / 2
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--real-data", type=Path, metavar="PATH", help="a Parquet table of Galaxy Zoo 2 counts, or a folder with one in it")
    parser.add_argument("--preset", default="survey", help="population to simulate (survey)")
    parser.add_argument("--n", type=int, default=20000, help="galaxies to simulate (20000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the population (0)")
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="write the table there too; an existing file is not replaced")
    parser.add_argument("--json", action="store_true", help="print the marginals as JSON")


def run(args: argparse.Namespace) -> int:
    if args.out is not None and args.out.exists():
        raise BadInput(f"--out {args.out}: exists already; give another name")
    found = None if args.real_data is None else real(args.real_data)  # a wrong path is said before anything is simulated
    ours = marginals(simulated(args.preset, args.seed, args.n))
    theirs = None if found is None else marginals(found[1])
    told = [f"{args.n} galaxies of `{args.preset}`, seed {args.seed}"]
    if found is None or theirs is None:
        told += ["", table(ours, None), "", "ours alone: --real-data PATH, a Parquet table of Galaxy Zoo 2 counts, adds the real ones"]
    else:
        told[0] += f", beside {len(found[1])} rows of {found[0].name}"
        apart = distance(ours, theirs)
        told += ["", table(ours, theirs), "", "Share of a question's mean fractions that lies elsewhere: "]
        told[-1] += ", ".join(f"{name} {value:.3f}" for name, value in apart.items()) + "."
    if args.out is not None:
        text = "\n".join(told) + "\n"
        files.commit(args.out, lambda file: file.write(text.encode()))
    if args.json:
        as_json = {"preset": args.preset, "seed": args.seed, "n": args.n, "simulated": [asdict(each) for each in ours]}
        if found is not None and theirs is not None:
            as_json |= {"real_rows": len(found[1]), "real": [asdict(each) for each in theirs], "apart": distance(ours, theirs)}
        print(json.dumps(as_json, indent=1))
    else:
        print("\n".join(told))
    return 0
