"""`python -m benchmarks presets`: what each preset is and costs, and the rates to expect of a card, beside those measured.

What is counted needs no card and no data. Rates are GFLOP over a ceiling of matrix products and convolutions, and bytes outside them over
a ceiling of copies: measured ones, from the rows of `train` and `sample` (or of `gpu`), or those of `--tflops` and `--gb-per-s`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks import rows
from benchmarks.choice import chosen
from benchmarks.costs import Cost, cost
from benchmarks.rows import Row
from galaxysd import config as configs
from galaxysd.errors import BadInput
from galaxysd.evaluate.report import table

NOTHING = {
    "cpu": "CPU: not measured yet: `python -m benchmarks train` and `sample` append rows.",
    "cuda": "GPU: not measured on a GPU yet.",
}
COUNTED = [
    "preset", "parameters", "GFLOP an image, forward", "in training", "of it convolutions", "MB outside products, in training",
    "in a pass of sampling", "memory of training", "of a unit",
]  # fmt: skip
RATES = [
    "preset", "train, img/s: expected", "measured", "by TFLOP/s, GB/s", "sample, passes/s: expected", "measured", "by TFLOP/s, GB/s",
    "passes an image", "img/s expected",
]  # fmt: skip


@dataclass(frozen=True)
class Ceilings:
    """What a card can do, and what says so."""

    tflops: float
    gb_per_s: float
    source: str

    def __str__(self) -> str:
        return f"{self.tflops:.3g}, {self.gb_per_s:.3g} ({self.source})"


def counted(costs: list[Cost]) -> Iterator[str]:
    """Markdown: what the presets are."""
    yield from table(
        COUNTED,
        [
            [
                f"`{each.name}`", f"{each.parameters / 1e6:.2f} M", f"{each.gflop:.3f}", f"{3 * each.gflop:.3f}",
                f"{each.convolutions:.0%}", f"{each.train_bytes / 1e6:.1f} + {each.step_bytes / 1e6:.0f} a step",
                f"{each.forward_bytes / 1e6:.1f}",
                f"{_size(each.train_held)} at {each.batch}", f"{_size(each.unit_held)} of {each.unit}",
            ]
            for each in costs
        ],
    )  # fmt: skip


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def of_machine(costs: list[Cost], paces: list[Row], limits: list[Row], device: str) -> Iterator[str]:
    """Markdown: expected and measured rates on every card that has rows."""
    mine = [row for row in paces if row["kind"] == "pace"]
    cards = sorted({row["card"] for row in mine} | {row["card"] for row in limits if row["kind"] == "ceiling"})
    if not cards:
        yield NOTHING[device]
        yield ""
    for card in cards:
        here, of_card = [row for row in mine if row["card"] == card], [row for row in limits if row["card"] == card]
        commits = sorted({row["commit"][:9] + (" (changed)" if row["dirty"] else "") for row in here or of_card})
        yield f"{card}{', one thread' if device == 'cpu' else ''}; commit {', '.join(commits)}."
        yield ""
        yield from table(RATES, [_line(each, here, of_card) for each in costs])
        yield ""


def _line(each: Cost, paces: list[Row], limits: list[Row]) -> list[str]:
    dtype = str(each.dtype).removeprefix("torch.")
    cells: list[str] = []
    sampled = "–"
    for verb in ("train", "sample"):
        same = [row for row in paces if row["name"] == verb and row["dtype"] == dtype]
        own = [row for row in same if row["preset"] == each.name and row["sweep"] is None]
        able = ceilings(own or same, limits if each.dtype is torch.bfloat16 else [])
        rate = measured = None
        if able is not None:
            one = each.train_rate if verb == "train" else lambda tflops, bandwidth: each.sample_rate(tflops, bandwidth, 1)
            rate = one(able.tflops, able.gb_per_s)
        if own:
            measured = own[-1]["img_per_s"]["ours"] * (1 if verb == "train" else own[-1]["forwards"])
        cells += [_rate(rate), "not measured" if measured is None else _rate(measured), str(able or "–")]
        sampled = _rate(None if rate is None else rate / each.passes)
    return [f"`{each.name}`", *cells, str(each.passes), sampled]


def _rate(rate: float | None) -> str:
    return "–" if rate is None else f"{rate:.3g}"


def ceilings(paces: list[Row], limits: list[Row]) -> Ceilings | None:
    """Of the newest row of a step: its convolutions and a copy, in its own turns; or else of `gpu`: a matrix product and a copy."""
    if paces:
        last = paces[-1]
        return Ceilings(last["ceilings"]["convolutions"], last["ceilings"]["copy"], f"`{last['preset']}`")
    known = {row["name"]: row["value"] for row in limits if row["kind"] == "ceiling"}
    if {"matmul", "copy"} <= set(known):
        return Ceilings(known["matmul"], known["copy"], "a matrix product")
    return None


def asked(costs: list[Cost], tflops: float, gb_per_s: float) -> Iterator[str]:
    """Markdown: the rates that ceilings given by hand promise."""
    yield f"A card of {tflops:g} TFLOP/s and {gb_per_s:g} GB/s:"
    yield ""
    yield from table(
        ["preset", "train, img/s", "sample, img/s", "passes an image"],
        [
            [f"`{each.name}`", _rate(each.train_rate(tflops, gb_per_s)), _rate(each.sample_rate(tflops, gb_per_s)), str(each.passes)]
            for each in costs
        ],
    )
    yield ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", action="append", metavar="NAME", help=f"one of {', '.join(configs.presets())}; may be repeated")
    parser.add_argument("--tflops", type=float, metavar="X", help="rates of a card whose convolutions run at X TFLOP/s ...")
    parser.add_argument("--gb-per-s", type=float, metavar="Y", help="... and whose copies read and write Y GB/s")
    parser.add_argument("--results", type=Path, default=rows.RESULTS, metavar="FOLDER", help="where rows are (benchmarks/results)")


def run(args: argparse.Namespace) -> int:
    if (args.tflops is None) != (args.gb_per_s is None):
        raise BadInput("--tflops and --gb-per-s: a card has both; give the other one too")
    if args.tflops is not None and min(args.tflops, args.gb_per_s) <= 0:
        raise BadInput(f"--tflops {args.tflops:g}, --gb-per-s {args.gb_per_s:g}: above 0 both")
    every = chosen([configs.load(name) for name in configs.presets()], args.only, "--only", "preset")
    costs = sorted((cost(each) for each in every), key=lambda each: each.gflop)
    print("\n".join(counted(costs)) + "\n")
    if args.tflops is not None:
        print("\n".join(asked(costs, args.tflops, args.gb_per_s)).rstrip())
        return 0
    for device in ("cpu", "cuda"):
        paces, limits = (rows.read(rows.path(args.results, device, what)) for what in ("pace", "kernels"))
        print("\n".join(of_machine(costs, paces, limits, device)))
    return 0
