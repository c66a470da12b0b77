"""`python -m benchmarks tune`: searches the launch tables on this card, row by row, and writes what it finds with --write.

A candidate is a point of a literal grid of block sizes and warps. It must compile without faults, and the case it belongs to must be
right with it; then the case's launchers are timed in turns with the row as it was. Nothing is ever tuned at run time: the output of this
command is committed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import torch

from benchmarks import aot, census, gate, rows, timing
from benchmarks.accuracy import accuracy, inputs
from benchmarks.census import Use
from benchmarks.interleave import spread
from galaxysd.errors import BadInput, Unavailable, nearest
from galaxysd.kernels import launching
from galaxysd.kernels.cases import CASES
from galaxysd.kernels.launching import Row

TILE = {"ROWS": (32, 64, 128, 256), "CHANNELS": (32, 64, 128)}
# What is searched. Sizes a kernel's class fixes (the rows of a one-pass slab, all keys of a short attention) stay as they are.
GRID: dict[str, dict[str, tuple[int, ...]]] = {
    "norm_forward": {"CHANNELS": (16, 32, 64, 128)},
    "norm_backward": {"CHANNELS": (16, 32, 64, 128)},
    "norm_statistics": TILE,
    "norm_merge": {"TILE": (256, 1024, 4096)},
    "norm_apply": TILE,
    "norm_partials": TILE,
    "norm_gather": {"TILE": (256, 1024, 4096)},
    "norm_spread": TILE,
    "norm_over_batch": {"ROWS": (16, 32, 64), "CHANNELS": (16, 32, 64)},
    "attention_short_forward": {"BLOCK_M": (32, 64, 128)},
    "attention_short_backward": {"BLOCK_N": (32, 64, 128)},
    "attention_tiled_forward": {"BLOCK_M": (64, 128), "BLOCK_N": (32, 64, 128)},
    "attention_tiled_queries": {"BLOCK_M": (64, 128), "BLOCK_N": (32, 64, 128)},
    "attention_tiled_keys": {"BLOCK_M": (32, 64, 128), "BLOCK_N": (64, 128)},
}
WARPS = (2, 4, 8, 16)
STAGES = {"attention_tiled_forward": (1, 2, 3), "attention_tiled_queries": (1, 2, 3), "attention_tiled_keys": (1, 2, 3)}
GAIN = 1.01  # below this a change is noise


def candidates(row: Row) -> list[Row]:
    """The points of the grid around a row, itself left out."""
    grid = GRID.get(row.op, {})
    sizes = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    found = [
        replace(row, blocks=row.blocks | each, warps=warps, stages=stages)
        for each in sizes
        for warps in WARPS
        for stages in STAGES.get(row.op, (row.stages,))
    ]
    return [each for each in found if each != row]


@contextmanager
def taken(row: Row) -> Iterator[None]:
    """Within it launchers take this row in place of the committed one."""
    table, where = launching.rows(), gate.key(row)
    before = table[where]
    table[where] = row
    try:
        yield
    finally:
        table[where] = before


def written(text: str, found: dict[tuple[str, str, str, int], Row]) -> str:
    """A launch table with the rows found in place of its own: a row a line, as it was."""
    table = [Row(**each) for each in json.loads(text)]
    lines = [json.dumps(asdict(found.get(gate.key(each), each))) for each in table]
    return "[\n" + ",\n".join(lines) + "\n]\n"


def searched(preset: str, dtype: torch.dtype, capability: int) -> dict[tuple[str, str, str, int], tuple[Row, Use]]:
    """The rows a preset's step takes on this card, each with the use that calls it most."""
    found: dict[tuple[str, str, str, int], tuple[Row, Use]] = {}
    for use in sorted(census.uses(preset), key=lambda use: -use.calls * use.shape.elements):
        for launch in gate.launches(CASES[use.case], use.shape, dtype, capability):
            found.setdefault(gate.key(launch.row), (launch.row, use))
    return found


def _faultless(row: Row, use: Use, dtype: torch.dtype) -> bool:
    with taken(row):
        tried = [each for each in gate.launches(CASES[use.case], use.shape, dtype, row.capability) if each.row == row]
        try:
            return bool(tried) and not any(gate.Result(use.case, aot.compile_launch(each)).faults for each in tried)
        except Exception as error:  # blocks the compiler refuses are no candidates
            print(f"  {shown(row)}: {str(error).splitlines()[0][:120] if str(error) else type(error).__name__}")
            return False


def _replay(row: Row, use: Use, given: dict[str, torch.Tensor]) -> timing.Replay:
    case = CASES[use.case]
    with taken(row):
        sets = timing.copies_of(given)
        outputs, _ = case.launched(given, use.shape, None)
        cotangents = tuple(torch.ones_like(each) for each in outputs)
        return timing.Replay([lambda each=each: case.launched(each, use.shape, cotangents) for each in sets])  # type: ignore[misc]


def best(row: Row, use: Use, dtype: torch.dtype, rounds: int = 9) -> tuple[Row, float]:
    """The fastest candidate, and how many times as long as it the row as it is takes."""
    given = inputs(CASES[use.case], use.shape, dtype, "cuda", torch.channels_last)
    winner, gain, committed = row, 1.0, _replay(row, use, given)
    for each in candidates(row):
        if not _faultless(each, use, dtype):
            continue
        with taken(each):
            if accuracy(CASES[use.case], given, use.shape).wrong:
                print(f"  {shown(each)}: wrong")
                continue
        seconds = timing.on_cuda({"ours": _replay(each, use, given), "committed": committed}, rounds)
        found = spread(seconds["ours"], seconds["committed"])["median"]
        if found > max(gain, GAIN):
            winner, gain = each, found
    return winner, gain


def shown(row: Row) -> str:
    blocks = ", ".join(f"{name} {value}" for name, value in row.blocks.items())
    return f"{row.op} {row.shape} {row.dtype}: {blocks}, {row.warps} warps, {row.stages} stages"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", default="small-64", help="whose training step gives the shapes (small-64)")
    parser.add_argument("--op", action="append", metavar="NAME", help="only rows of this op of the tables; may be given again")
    parser.add_argument("--minutes", type=float, default=60.0, help="when to stop, between two rows (60)")
    parser.add_argument("--write", action="store_true", help="write the rows found into the launch tables")


def run(args: argparse.Namespace) -> int:
    if args.preset not in census.PRESETS:
        raise BadInput(f"--preset {args.preset}: no such preset{nearest(args.preset, census.PRESETS)}")
    for op in args.op or ():
        if op not in GRID:
            raise BadInput(f"--op {op}: no such op{nearest(op, GRID)}")
    if not torch.cuda.is_available():
        raise Unavailable(f"no CUDA device ({rows.card()} alone): launch rows are found by timing them on the card they are for")
    reason = launching.unready(torch.device("cuda"))
    if reason is not None:
        raise Unavailable(reason)
    until = time.monotonic() + 60 * args.minutes
    capability, dtype = launching.capability_of(torch.device("cuda")), torch.bfloat16
    found: dict[tuple[str, str, str, int], Row] = {}
    for where, (row, use) in searched(args.preset, dtype, capability).items():
        if args.op is not None and row.op not in args.op:
            continue
        if time.monotonic() > until:
            print(f"{shown(row)}: not searched, the time is up")
            continue
        winner, gain = best(row, use, dtype)
        print(f"{shown(row)}" + (f"  ->  {shown(winner)}: {gain:.2f} times as fast" if winner != row else ": stays"), flush=True)
        if winner != row:
            launching.rows()[where] = found[where] = winner  # what follows is timed with it
    if args.write:
        for file in sorted(Path(launching.TABLES).glob("*.json")):
            text = file.read_text()
            if (new := written(text, found)) != text:
                file.write_text(new)
                print(f"{file}: written; compile it: python -m benchmarks compile --forms all")
    return 0
