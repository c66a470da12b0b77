"""What a step costs against batch, resolution and ranks: the points that `--sweep` measures, and the ranks of a step in turns.

Ranks take turns in one run: all of them, with and without exchanging gradients, and the first alone with the whole batch. Wall time, by
the first rank's clock between two waits for all.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks import contest, rows
from benchmarks.interleave import spread, turns
from benchmarks.rows import Row
from galaxysd import config as configs
from galaxysd import distributed
from galaxysd.diffusion.denoiser import Denoiser
from galaxysd.diffusion.loss import edm_loss
from galaxysd.distributed import Ranks
from galaxysd.errors import BadInput, GalaxySDError, Unavailable
from galaxysd.train.step import Optimiser

NAMES = ("batch", "resolution", "ranks")
FACTORS = {"batch": (1 / 8, 1 / 4, 1 / 2, 1, 2), "resolution": (1 / 2, 1, 2)}
TOGETHER, APART, ALONE = "all ranks", "without exchange", "one rank"


class RankFailed(GalaxySDError):
    """A rank of a measurement ended with an error."""

    exit_code = 1


def points(sweep: str | None, verb: str, preset: str, batch: int | None) -> list[tuple[str, ...]]:
    """The settings of each row of a sweep; of one row without."""
    config = configs.load(preset)
    own = batch or (config.train.batch if verb == "train" else config.sample.unit)
    counted = "train.batch" if verb == "train" else "sample.unit"
    if sweep == "batch":
        return [(f"{counted}={each}",) for each in sorted({max(1, round(factor * own)) for factor in FACTORS["batch"]})]
    if sweep is None:
        return [(f"{counted}={own}",)]
    found = []
    for factor in FACTORS["resolution"]:  # attention stays at its levels
        size, sides = round(factor * config.model.image_size), [round(factor * each) for each in config.model.attention]
        found.append((f"{counted}={own}", f"model.image_size={size}", f"model.attention={sides}"))
    return found


def ranks(verb: str, preset: str, batch: int | None, dtype: str, rounds: int, device: str) -> Iterator[Row]:
    """A row for 2, 4, 8, ... ranks, as many as this machine has cores or cards."""
    if verb != "train":
        raise BadInput("--sweep ranks: ranks share a train step; sampled units know nothing of each other: python -m benchmarks train")
    most = torch.cuda.device_count() if device == "cuda" else len(os.sched_getaffinity(0))
    if most < 2:
        raise Unavailable(f"--sweep ranks: one {'card' if device == 'cuda' else 'core'} here; 2 or more are needed")
    count = 2
    while count <= most:
        yield of_ranks(count, preset, batch, dtype, rounds, device)
        count *= 2


def of_ranks(count: int, preset: str, batch: int | None, dtype: str, rounds: int, device: str) -> Row:
    """Starts so many ranks by torchrun, and makes a row of what the first measured."""
    batch = batch or configs.load(preset).train.batch
    if batch % count:
        raise BadInput(f"--batch {batch}: does not divide by {count} ranks; use {-(-batch // count) * count}")
    with TemporaryDirectory() as folder:
        out = Path(folder) / "seconds.json"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}", "-m", "benchmarks.sweeps"]
        command += [preset, str(batch), dtype, str(rounds), device, str(out)]
        done = subprocess.run(
            command, cwd=rows.ROOT, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(rows.ROOT)}
        )
        if done.returncode:
            raise RankFailed(f"--sweep ranks: {count} ranks ended with code {done.returncode}: {done.stderr.strip()[-1000:]}")
        found = json.loads(out.read_text())
    seconds = found["seconds"]
    return {
        "kind": "ranks",
        **rows.provenance(),
        "name": "train",
        "preset": preset,
        "batch": batch,
        "dtype": found["dtype"],
        "rounds": rounds,
        "ranks": count,
        "ratios": {name: spread(seconds[TOGETHER], each) for name, each in seconds.items() if name != TOGETHER},
        "img_per_s": {name: batch / statistics.median(each) for name, each in seconds.items()},
    }


def timed(ranks: Ranks, contestants: dict[str, Callable[[], object]], rounds: int, device: str, warmup: int = 2) -> dict[str, list[float]]:
    """Seconds until every rank has ended its turn, by this rank's clock."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(-warmup, rounds):
        for name in turns(list(contestants), number):
            ranks.most([0.0])
            began = time.perf_counter()
            contestants[name]()
            if device == "cuda":
                torch.cuda.synchronize()
            ranks.most([0.0])
            if number >= 0:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def work(ranks: Ranks, preset: str, batch: int, dtype: str, rounds: int, device: str) -> Row:
    """What one of the ranks does: its turns, in the seconds of its clock."""
    found, config, width = contest.denoisers(preset, dtype, device, overrides=(f"train.batch={batch}",))
    ours, share = found["ours"], batch // ranks.world
    whole = contest.steps({ALONE: ours}, config, width, batch, device)[ALONE]
    learner = ranks.learner(ours.net)
    denoiser, optimiser = Denoiser(learner, config.diffusion, ours.dtype), Optimiser(ours.net, config.train)
    denoiser.layout = ours.layout
    side, channels = config.model.image_size, config.model.image_channels
    x0 = torch.full((share, channels, side, side), 0.1, device=device)
    noise, features = torch.full_like(x0, 0.5), torch.full((share, width), 0.5, device=device)
    sigma = torch.linspace(0.05, 5.0, share, device=device)

    def step(exchange: bool) -> None:
        optimiser.step(0, 0.0, ranks.backward(learner, lambda: edm_loss(denoiser, x0, features, sigma, noise).mean(), last=exchange))

    contestants: dict[str, Callable[[], object]] = {
        TOGETHER: lambda: step(True),
        APART: lambda: step(False),
        ALONE: whole if ranks.leads else lambda: None,
    }
    return {"dtype": str(ours.dtype).removeprefix("torch."), "seconds": timed(ranks, contestants, rounds, device)}


def main() -> None:
    """A rank, started by torchrun."""
    parser = argparse.ArgumentParser()
    for name, kind in (("preset", str), ("batch", int), ("dtype", str), ("rounds", int), ("device", str), ("out", Path)):
        parser.add_argument(name, type=kind)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with distributed.ranks(args.device) as ranks:
        found = work(ranks, args.preset, args.batch, args.dtype, args.rounds, args.device)
        if ranks.leads:
            args.out.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
