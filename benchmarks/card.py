"""`python -m benchmarks card MODEL --out docs/models/NAME.md`: the page of a model that was shipped: data, command, time, scores, limits.

Facts are read from the file's own header, scores of a generator from what `benchmarks classes MODEL --out FOLDER` wrote; a classifier is
scored here. Nothing is typed by hand, so a page is made again when its model is.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import classes, rows
from galaxysd import checkpoint, files
from galaxysd.checkpoint import Checkpoint
from galaxysd.classify import rates
from galaxysd.errors import BadInput
from galaxysd.evaluate.report import table
from galaxysd.model.classifier import Judge
from galaxysd.runlog import duration

GOAL = 0.85  # of the judge's own rate, below which a class is named among the limits


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a file that `--ship` wrote, or a bundled name")
    parser.add_argument(
        "--scores", type=Path, metavar="FILE", help="of a generator: classes.json of `benchmarks classes MODEL --out FOLDER`"
    )
    parser.add_argument("--held-out", type=int, default=4096, help="of a classifier: simulated galaxies of each population (4096)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.md", help="the page; an existing one is not replaced")


def run(args: argparse.Namespace) -> int:
    if args.out.exists():
        raise BadInput(f"--out {args.out}: exists already, and nothing is overwritten; give another name, or take it away first")
    path, expected, _ = checkpoint.locate(args.model)
    found = checkpoint.read(path, expected)
    card = found.about.get("card")
    if not isinstance(card, dict):
        raise BadInput(f"{path}: its header has no card; write the model with --ship, which puts one there")
    scored = classifier(found, card, args.held_out) if found.about["kind"] == "classifier" else generator(found, args.scores)
    text = "\n".join([*facts(found, card), "", "## Scores", "", *scored]) + "\n"
    files.commit(args.out, lambda file: file.write(text.encode()))
    print(f"wrote {args.out}")
    return 0


def facts(found: Checkpoint, card: dict[str, Any]) -> Iterator[str]:
    """Data, command, time, size."""
    about = found.about
    config, frame, versions = about["config"], about["frame"], card["versions"]
    yield f"# {found.path.stem}"
    yield ""
    what = "Draws galaxies from what volunteers would say of them" if about["kind"] == "denoiser" else "Says how volunteers would vote"
    yield f"{what}: {frame['kind']} images of {frame['size']} pixels in {' '.join(frame['bands'])}. Trained on simulated galaxies alone."
    yield ""
    yield f"- **Data**: {'; '.join(population(each) for each in card['data'].get('mixed', [card['data']]))}."
    yield f"- **Command**: `{card['command']}`"
    took = f"{duration(card['seconds'])} of training steps on {card['device']}, {duration(card['cpu_seconds'])} of CPU time in all"
    yield f"- **Time**: {card['images']} images in {card['steps']} steps; {took}; calls: {card['calls']}; {', '.join(card['machines'])}."
    made = f"galaxysd {versions['galaxysd']}, torch {versions['torch']}, Python {versions['python']}"
    yield f"- **Versions**: {made}; preset `{config['name']}`."
    count = sum(tensor.numel() for tensor in found.tensors.values())
    kinds = ", ".join(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in found.tensors.values()}))
    yield f"- **Size**: {found.digest.size} bytes, {count / 1e6:.2f} M weights in {kinds}; SHA-256 `{found.digest.sha256}`."


def population(data: dict[str, Any]) -> str:
    """One source of training galaxies, in words."""
    if "simulated" not in data:
        return f"a set of {data.get('n')} galaxies made by {data.get('made_by') or 'another program'} (manifest SHA-256 {data.get('set')})"
    return f"{data['n']} galaxies of `{data['simulated']}`, seed {data['seed']}, indices from {data['first']}, {data['size']} px"


def measured(row: dict[str, Any]) -> str:
    """Where and with what a figure was found."""
    changed = " with changed files" if row["dirty"] else ""
    return f"Measured on {row['card']}, torch {row['machine']['versions'].get('torch')}, commit {row['commit'][:9]}{changed}"


def generator(found: Checkpoint, scores: Path | None) -> Iterator[str]:
    """How often each class is found, and what follows from that."""
    if scores is None:
        raise BadInput(f"--scores: give classes.json, which `python -m benchmarks classes {found.path.stem} --out FOLDER` writes")
    read = files.read_json(scores)
    if not isinstance(read, dict) or "model_sha256" not in read:
        raise BadInput(f"{scores}: no figures of `benchmarks classes`; give the classes.json it wrote")
    if read["model_sha256"] != found.digest.sha256:
        mine, theirs = found.digest.sha256[:12], str(read["model_sha256"])[:12]
        raise BadInput(f"{scores}: of the model {theirs}..., {found.path} is {mine}...; run `benchmarks classes` on this one")
    yield from classes.words(read)
    yield ""
    yield f"{measured(read)}; drawn at {read['img_per_s']:g} images/s."
    yield from ("", "## Limits", "")
    low = [name for name, each in read["classes"].items() if (each["ratio"]["ratio"] or 0) < GOAL and each["found"]["rows"]]
    if low:
        yield f"- Found at less than {GOAL} of the judge's own rate, or not measurable: {', '.join(low)}."
    cover = read["coverage"]
    if cover is not None and cover["beyond_floor"]:
        yield f"- Less varied than the simulator: covers {cover['value']:.2f} of held-out galaxies, other ones cover {cover['floor']:.2f}."
    yield "- The judge is a small classifier of the same simulated survey: a class found is what that survey draws for it, not real sky."
    yield f"- {found.about['frame']['size']} pixels: a request for more detail than they hold is not met. No real galaxy was ever seen."


def classifier(found: Checkpoint, card: dict[str, Any], n: int) -> Iterator[str]:
    """How often it gives the answer that most volunteers gave, on galaxies of another seed."""
    from galaxysd.simulate.survey import frame, simulate

    judge, columns = Judge(found), {}
    for each in card["data"].get("mixed", [card["data"]]):
        if "simulated" not in each:
            raise BadInput(f"{found.path}: trained on a set that is not simulated here; its page cannot be measured")
        name, seed, size = each["simulated"], each["seed"] + 1, judge.frame.size
        columns[f"{name} (seed {seed})"] = rates(judge, simulate(name, seed, range(n), size), frame(name, size))
    yield f"How often it gives the answer that most simulated volunteers gave, on {n} held-out galaxies of each population:"
    yield ""
    shown = [answer for answer in judge.labels.answers if any(answer in column for column in columns.values())]
    body = []
    for answer in shown:
        pairs = [column.get(answer) for column in columns.values()]
        body.append(
            [f"`{answer}`", *(cell for pair in pairs for cell in (("–", "0") if pair is None else (f"{pair[0]:.2f}", str(pair[1]))))]
        )
    yield from table(["answer", *(cell for name in columns for cell in (name, "N"))], body)
    yield from ("", f"{measured(rows.provenance())}.")
    yield from ("", "## Limits", "")
    weak = [
        answer for answer in shown if all(pair is None or pair[0] < 0.5 for pair in (column.get(answer) for column in columns.values()))
    ]
    if weak:
        yield f"- Gives these answers less than half as often as the crowd: {', '.join(f'`{answer}`' for answer in weak)}."
    yield "- It has seen simulated galaxies alone: what it says of real ones is untested."
    yield "- It measures whether a generated galaxy looks like what the simulator draws for a request, not whether it is a galaxy."
