"""`python -m benchmarks train` and `sample`: a whole step and a sampled unit of a preset, beside what a user would take instead.

Peers: the same network in plain torch modules; diffusers' UNet2DModel of as many FLOPs (within a tenth), where it is installed; and the
network's convolutions alone, which are what no fusion can take away. With `--compiled` each network takes part under torch.compile too,
and stands in its better form. All in one process, in turns, in one dtype, batch and resolution, beside a matrix product and a copy of the
same machine. Rows are appended; `--report` prints them as Markdown.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks import alone, compiled, contest, counting, pace_report, rows, sweeps, timing, unets
from benchmarks.contest import Contest
from benchmarks.counting import Held
from benchmarks.interleave import interleaved, spread
from benchmarks.rows import Row
from benchmarks.timing import Run
from benchmarks.unets import diffusers_like, wrapped
from galaxysd.config import Config
from galaxysd.diffusion.denoiser import Denoiser, frozen
from galaxysd.errors import BadInput

STEPS = 4  # of the sampler, in a unit
PRESET = {"cuda": "small-64", "cpu": "smoke-32"}
LIMITS = ("matmul", "copy")
SHOWN = 0.01  # of a step, for an operation to be named


def add_arguments(parser: argparse.ArgumentParser) -> None:
    device = rows.device()
    parser.add_argument("--preset", default=PRESET[device], help="(%(default)s)")
    parser.add_argument("--batch", type=int, help="images of a train step, or of a sampled unit (the preset's)")
    parser.add_argument("--dtype", choices=("auto", "bf16", "fp32"), default="auto")
    parser.add_argument("--rounds", type=int, default=15, help="turns of each contestant (%(default)s)")
    parser.add_argument(
        "--compiled", action=argparse.BooleanOptionalAction, default=device == "cuda", help="also each network under torch.compile"
    )
    parser.add_argument("--compile-limit", type=float, default=300.0, metavar="SECONDS", help="for each of them (%(default)s)")
    parser.add_argument("--sweep", choices=sweeps.NAMES, help="measure at several of these instead: a row for each")
    parser.add_argument("--device", default=device)
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="where rows are appended (benchmarks/results)")
    parser.add_argument("--report", action="store_true", help="print the tables of the rows there are, as Markdown; measure nothing")


def run(args: argparse.Namespace) -> int:
    file = rows.path(args.results or rows.RESULTS, args.device, "pace")
    if args.report:
        print("\n".join(pace_report.markdown(rows.read(file))))
        return 0
    if args.rounds < 1 or (args.batch is not None and args.batch < 1) or args.compile_limit <= 0:
        raise BadInput(f"--rounds {args.rounds}, --batch {args.batch}, --compile-limit {args.compile_limit:g}: each above 0")
    found = []
    for row in measured(args):
        rows.append(file, row)
        found.append(row)
        print(pace_report.say(row), flush=True)
    print("\n".join(pace_report.markdown(found)))
    print(f"rows appended to {file}")
    return 0


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """A CPU's ratios are of one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def measured(args: argparse.Namespace) -> Iterator[Row]:
    """The rows that the command asks for, each when it is there."""
    if args.sweep == "ranks":
        yield from sweeps.ranks(args.verb, args.preset, args.batch, args.dtype, args.rounds, args.device)
        return
    limit = args.compile_limit if args.compiled else None
    for point in sweeps.points(args.sweep, args.verb, args.preset, args.batch):
        with one_thread():
            yield measure(args.verb, args.preset, args.dtype, args.rounds, args.device, point, limit) | {"sweep": args.sweep}


def measure(
    verb: str,
    preset: str,
    dtype: str,
    rounds: int,
    device: str,
    overrides: tuple[str, ...] = (),
    compile_limit: float | None = None,
    plant: float = 1.0,
) -> Row:
    """One row: how many times as long as ours each peer takes, images a second, and what was counted.

    Networks are compiled where there is a limit for it; a `plant` makes our eager step cost that many times as much.
    """
    training = verb == "train"
    found, gflop, config, width = networks(preset, dtype, device, overrides)
    batch = config.train.batch if training else config.sample.unit
    copied = {name: counting.copies(each, config.model, width) for name, each in found.items()}

    sides = found if training else {name: frozen(each) for name, each in found.items()}
    eager = contestants(sides, config, width, device, training)
    held, shares = {name: memory(call, device) for name, call in eager.items()}, ops(eager["ours"]) if device == "cpu" else {}
    fast, took, absent = compiled.those(sides, compile_limit, lambda each: contestants(each, config, width, device, training))
    gflop_alone, convolutions = (
        alone.of_a_step(found["ours"], config, width, batch) if training else alone.of_a_unit(found["ours"], config, width, STEPS)
    )
    limits = alone.limits(found["ours"].dtype, device)
    every = eager | fast | {"convolutions": convolutions} | {name: call for name, (_, call) in limits.items()}
    if plant != 1:
        every["ours"] = planted(every["ours"], plant, device)
    seconds = contest.on_cuda(every, rounds) if device == "cuda" else interleaved(every, rounds)

    medians = {name: statistics.median(each) for name, each in seconds.items()}
    best = {name: min(compiled.forms(name, medians), key=lambda form: medians[form]) for name in sides}
    mine = seconds[best["ours"]]
    able = {"convolutions": gflop_alone * batch / 1e3 / medians["convolutions"]}
    able |= {name: work / medians[name] for name, (work, _) in limits.items()}
    forwards = 3 if training else sum(alone.evaluations(config, STEPS))
    return {
        "kind": "pace",
        **rows.provenance(),
        "name": verb,
        "preset": preset,
        "batch": batch,
        "size": config.model.image_size,
        "dtype": str(found["ours"].dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "rounds": rounds,
        "sweep": None,
        "best": best,
        "ratios": {name: spread(mine, each) for name, each in seconds.items() if name != best["ours"] and name not in LIMITS},
        "seconds": medians,
        "img_per_s": {name: batch / medians[best[name]] for name in sides},
        "gflop_forward": gflop,
        "gflop_convolutions": gflop_alone,
        "forwards": forwards,
        "ceilings": able,
        "mfu": {name: forwards * gflop[name] * batch / 1e3 / medians[best[name]] / able["matmul"] for name in sides},
        "copies": copied,
        "held_mb": held,
        "ops": shares,
        "compile_s": took,
        "absent": absent,
    }  # fmt: skip


def networks(preset: str, dtype: str, device: str, overrides: tuple[str, ...]) -> tuple[dict[str, Denoiser], dict[str, float], Config, int]:
    """Ours, plain, and diffusers' where it is installed; GFLOP of a forward pass of each; their config and width of conditions."""
    found, config, width = contest.denoisers(preset, dtype, device, overrides=overrides)
    if unets.installed():
        found["diffusers"] = wrapped(diffusers_like(config.model, width, counting.flops(found["ours"], config.model, width)), found["ours"])
    return found, {name: counting.flops(each, config.model, width) for name, each in found.items()}, config, width


def planted(call: Run, factor: float, device: str) -> Run:
    """The call made to take `factor` times its time."""
    if device == "cpu":
        return timing.slowed(call, factor)

    def slow() -> None:
        torch.cuda.synchronize()
        began = time.perf_counter()
        call()
        torch.cuda.synchronize()
        time.sleep((factor - 1) * (time.perf_counter() - began))

    return slow


def contestants(sides: dict[str, Denoiser], config: Config, width: int, device: str, training: bool) -> Contest:
    """A train step, or a unit, of each of these."""
    if training:
        return contest.steps(sides, config, width, config.train.batch, device)
    return contest.drawn(sides, config, width, STEPS, device)


def memory(call: Run, device: str) -> float:
    """MB that a step holds at most beside weights, moments and EMA; the first call, which makes moments, is not counted."""
    call()
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return round((torch.cuda.max_memory_allocated() - before) / 2**20, 1)
    with Held() as held:
        call()
    return round(held.most / 2**20, 1)


def ops(call: Run) -> dict[str, float]:
    """The share of each operation in a step on the CPU, by its own time; those too small to name are together `others`."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        call()
    times = {each.key: float(each.self_cpu_time_total) for each in seen.key_averages()}
    total = math.fsum(times.values())
    shares = {name: each / total for name, each in sorted(times.items(), key=lambda pair: -pair[1]) if each >= SHOWN * total}
    return {**shares, "others": 1 - math.fsum(shares.values())}
