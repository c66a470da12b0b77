"""`python -m benchmarks kernels`: checks each case of a preset's step against float64, then times it beside its peers, and keeps a row."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks import census, peers, rows, timing
from benchmarks.accuracy import accuracy, inputs
from benchmarks.census import Use
from benchmarks.interleave import spread
from benchmarks.rows import Row
from benchmarks.timing import BOTH, FORWARD, Run
from galaxysd.diffusion.denoiser import resolve_dtype, resolve_layout
from galaxysd.errors import BadInput, GalaxySDError, nearest
from galaxysd.kernels.cases import CASES, Shape
from galaxysd.kernels.launching import DTYPES

ROUNDS = {"cpu": 15, "cuda": 25}


class WrongResult(GalaxySDError):
    """A kernel that is not right; it is not timed."""

    exit_code = 1


@dataclass(frozen=True)
class Settings:
    """How a measurement is taken. The dtype and layout are those the trainer would take on this machine."""

    device: torch.device
    dtype: torch.dtype
    layout: torch.memory_format
    rounds: int
    compiled: bool  # whether torch.compile takes part
    plant: float = 1.0  # our calls made to cost this many times as much, to see whether that is noticed

    @classmethod
    def here(cls, rounds: int | None = None, compiled: bool = False, plant: float = 1.0) -> Settings:
        device = torch.device(rows.device())
        dtype = resolve_dtype("auto", device)
        layout = resolve_layout("auto", device, dtype)
        return cls(device, dtype, layout, rounds or ROUNDS[device.type], compiled or device.type == "cuda", plant)


def rare(name: str, preset: str | None = None) -> Use:
    """A shape for a form that no step uses at present: that of the form most like it in a preset's step, or else a small one."""
    kin = [use for use in (census.uses(preset) if preset else ()) if CASES[use.case].op == CASES[name].op and not use.shape.second]
    if kin:
        return Use(name, max(kin, key=lambda use: use.calls * use.shape.elements).shape, 0)
    if CASES[name].op == "attention":
        return Use(name, Shape(2, 8, 8, 64, 2), 0)
    return Use(name, Shape(2, 8, 8, 32, 6, 16) if "cat" in name else Shape(2, 8, 8, 32, 4), 0)


def small(use: Use) -> Use:
    """The same with less of it: what a smoke run takes."""
    shape, divisor = use.shape, max(1, use.shape.parts // 2)
    narrow = Shape(2, min(shape.height, 8), min(shape.width, 8), shape.channels // divisor, shape.parts // divisor, shape.second // divisor)
    return Use(use.case, narrow, use.calls)


def chosen(preset: str, names: list[str] | None, smoke: bool) -> list[Use]:
    """The uses to measure: of the preset's step, or of the cases named."""
    if preset not in census.PRESETS:
        raise BadInput(f"--preset {preset}: no such preset{nearest(preset, census.PRESETS)}")
    for name in names or ():
        if name not in CASES:
            raise BadInput(f"--case {name}: no such case{nearest(name, CASES)}")
    found = [use for use in census.uses(preset) if names is None or use.case in names]
    found += [rare(name, preset) for name in names or () if name not in {use.case for use in found}]
    return list({(each.case, each.shape): each for each in map(small, found)}.values()) if smoke else found


def measure(use: Use, settings: Settings, which: tuple[str, ...] = (FORWARD, BOTH)) -> Iterator[Row]:
    """Rows of one use: both passes, or one row that says it is wrong."""
    case = CASES[use.case]
    given = inputs(case, use.shape, settings.dtype, settings.device, settings.layout)
    found = accuracy(case, given, use.shape)
    common = {
        "kind": "kernel",
        **rows.provenance(),
        "case": use.case,
        "shape": str(use.shape),
        "dtype": DTYPES[settings.dtype],
        "layout": "nhwc" if settings.layout is torch.channels_last else "nchw",
        "digest": rows.digest(case),
        "green": not found.wrong,
        "errors": {name: list(pair) for name, pair in found.errors.items()},
        "error_ratio": found.ratio,
    }
    if found.wrong:
        yield common | {"pass": BOTH, "ratios": {}, "wrong": found.wrong}
        return
    for each in which:
        yield common | {"pass": each} | _timed(use, settings, each, given)


def _timed(use: Use, settings: Settings, which: str, given: dict[str, torch.Tensor]) -> Row:
    torch._dynamo.reset()  # otherwise torch.compile gives up after some shapes, and would run eagerly
    case, cuda = CASES[use.case], settings.device.type == "cuda"
    others, absent = peers.peers(case, given, use.shape, settings.compiled)
    streams = case.streams[0] + (case.streams[1] if which == BOTH else 0)
    sets = timing.copies_of(given) if cuda else [given]
    makers = {"ours": [timing.passed(case.ours, each, use.shape, which) for each in sets]}
    for name, call in others.items():
        try:
            makers[name] = [timing.passed(call, each, use.shape, which) for each in sets]
        except RuntimeError as error:  # a backend that does not take this shape: said in the row, and the others go on
            absent[name] = peers.words(error)
    makers["copy"] = [peers.copies(each, use.shape, streams) for each in sets]
    seconds = _on_cuda(makers, settings, absent) if cuda else timing.on_cpu(planted_cpu(makers, settings.plant), settings.rounds)
    row: Row = {
        "ratios": {name: spread(seconds["ours"], found) for name, found in seconds.items() if name not in ("ours", "copy")},
        "fraction_of_copy": spread(seconds["ours"], seconds["copy"])["median"],
        "seconds": {name: statistics.median(found) for name, found in seconds.items()},
        "bytes": case.bytes(use.shape, settings.dtype) + (case.bytes(use.shape, settings.dtype, True) if which == BOTH else 0),
        "rounds": settings.rounds,
        "absent": absent,
    }
    if cuda:
        row["cold"] = {name: timing.cold(makers[name][0]) for name in seconds if name != "copy"}
    return row


def planted_cpu(makers: dict[str, list[Run]], plant: float) -> dict[str, Run]:
    """The contestants; ours, where a slowdown is planted, works on until it has taken `plant` times its time."""
    found = {name: calls[0] for name, calls in makers.items()}
    if plant != 1:
        found["ours"] = timing.slowed(found["ours"], plant)
    return found


def _on_cuda(makers: dict[str, list[Run]], settings: Settings, absent: dict[str, str]) -> dict[str, list[float]]:
    replays: dict[str, timing.Replay] = {}
    for name, calls in makers.items():
        more = round((settings.plant - 1) * len(calls)) if name == "ours" else 0
        try:
            replays[name] = timing.Replay(calls + calls[:more], counted=len(calls))
        except RuntimeError as error:  # what cannot be captured is said in the row as well
            if name in ("ours", "copy"):
                raise
            absent[name] = peers.words(error)
    return timing.on_cuda(replays, settings.rounds)


def headline(preset: str, found: list[Row], uses: list[Use]) -> Row | None:
    """The count-weighted sum over a preset's step, forward and backward: how many times as long as ours the peers take."""
    by = {(row["case"], row["shape"]): row for row in found if row["kind"] == "kernel" and row["green"] and row["pass"] == BOTH}
    taken = [(use.calls, by.get((use.case, str(use.shape)))) for use in uses]
    if not taken or any(row is None for _, row in taken):
        return None
    pairs = [(calls, row["seconds"]) for calls, row in taken if row is not None]
    ours = sum(calls * seconds["ours"] for calls, seconds in pairs)
    best = sum(calls * min(value for name, value in seconds.items() if name not in ("ours", "copy")) for calls, seconds in pairs)
    ratios = {"best peer": {"median": best / ours}}
    for name in ("eager", "torch.compile"):
        if all(name in seconds for _, seconds in pairs):
            ratios[name] = {"median": sum(calls * seconds[name] for calls, seconds in pairs) / ours}
    digest = "+".join(sorted({row["digest"][:12] for _, row in taken if row is not None}))
    return {"kind": "headline", **rows.provenance(), "preset": preset, "digest": digest, "ratios": ratios, "seconds": ours}


def say(row: Row) -> str:
    """A row in one line."""
    if row["kind"] == "headline":
        shown = ", ".join(f"{name} {found['median']:.2f}" for name, found in row["ratios"].items())
        return f"{row['preset']}: one step's norms and attention, count-weighted; peers take times ours: {shown}"
    where = f"{row['case']:<14} {row['shape']:<24} {row['dtype']:<5} {row['pass']:<17}"
    if not row["green"]:
        return f"{where} WRONG, not timed: {'; '.join(row['wrong'])}"
    shown = ", ".join(f"{name} {each['median']:.2f} [{each['p20']:.2f}, {each['p80']:.2f}]" for name, each in row["ratios"].items())
    missing = f"; absent: {', '.join(row['absent'])}" if row["absent"] else ""
    return f"{where} {shown}; {row['fraction_of_copy']:.2f} of copy; error {row['error_ratio']:.2f} of torch's{missing}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", help="whose training step gives shapes and counts (small-64 on a GPU, smoke-32 on a CPU)")
    parser.add_argument("--case", action="append", metavar="NAME", help="only this case; may be given again")
    parser.add_argument("--smoke", action="store_true", help="tiny shapes and few rounds: whether it runs, not how fast; keeps no rows")
    parser.add_argument("--compile", action="store_true", help="on a CPU too, let torch.compile take part (minutes)")
    parser.add_argument("--rounds", type=int, help="turns of each contestant")
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="where rows are appended (benchmarks/results)")


def run(args: argparse.Namespace) -> int:
    settings = Settings.here(3 if args.smoke else args.rounds, args.compile)
    preset = args.preset or ("small-64" if settings.device.type == "cuda" else "smoke-32")
    uses = chosen(preset, args.case, args.smoke)
    folder = args.results or (None if args.smoke else rows.RESULTS)
    print(f"{rows.card()}: how many times as long as ours each peer takes, median [p20, p80] of {settings.rounds} rounds", flush=True)
    if settings.device.type == "cpu":
        print("no CUDA device: the CPU's operators are measured, one thread; nothing here says how fast the Triton kernels are", flush=True)
    if args.smoke:
        print("smoke: tiny shapes, where calling costs more than computing; the ratios decide nothing", flush=True)
    found = []
    for use in uses:
        for row in measure(use, settings):
            found.append(row)
            print(say(row), flush=True)
            if folder is not None:
                rows.append(rows.path(folder), row)
    if args.case is None and not args.smoke and (total := headline(preset, found, uses)) is not None:
        print(say(total), flush=True)
        if folder is not None:
            rows.append(rows.path(folder), total)
    if folder is not None:
        print(f"rows appended to {rows.path(folder)}")
    if any(not row["green"] for row in found):
        raise WrongResult("kernels: " + ", ".join(sorted({row["case"] for row in found if not row["green"]})) + " differ from float64")
    return 0
