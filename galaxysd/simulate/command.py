"""`galaxysd simulate`: writes a set of simulated galaxies, shard by shard; stopped or killed, the same command goes on."""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Generator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import torch

from galaxysd.data.galaxies import Galaxies
from galaxysd.data.shards import SetWriter
from galaxysd.errors import GalaxySDError, Stopped
from galaxysd.runlog import Progress, StopSignals
from galaxysd.simulate.latents import BLOCK
from galaxysd.simulate.populations import POPULATIONS
from galaxysd.simulate.survey import SimulatedSource

SHARD_PIXELS = 1 << 21  # pixels of one band in a shard: 25 MB of images
POLL = 0.2  # seconds between looks at a request to stop


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--n", type=int, required=True, help="how many galaxies")
    parser.add_argument("--size", type=int, default=64, help="pixels on a side; the field of view stays the same (%(default)s)")
    parser.add_argument("--preset", choices=sorted(POPULATIONS), default="survey", help="the population (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="index of the first galaxy: disjoint ranges are disjoint sets (%(default)s)")
    parser.add_argument("--workers", type=int, help="processes, of one thread each; changes no byte (all cores)")
    parser.add_argument("--out", type=Path, required=True, help="a new folder, or the unfinished set of the same command")
    parser.add_argument("--json", action="store_true")


def run(args: argparse.Namespace) -> None:
    if args.n < 1:
        raise GalaxySDError(f"--n {args.n}: a set needs at least 1 galaxy")
    if args.first < 0:
        raise GalaxySDError(f"--first {args.first}: galaxies are numbered from 0")
    workers = len(os.sched_getaffinity(0)) if args.workers is None else args.workers
    if workers < 1:
        raise GalaxySDError(f"--workers {workers}: give at least 1")
    began = time.monotonic()
    source = SimulatedSource(args.preset, args.seed, args.first, args.n, args.size, shard_rows(args.size))
    manifest, fresh = write_set(source, args.out, workers)
    report = {"out": str(args.out), "rows": manifest["rows"], "shards": len(manifest["shards"]), "rendered": fresh,
              "seconds": round(time.monotonic() - began, 2)}  # fmt: skip
    said = f"{report['rows']} galaxies in {args.out}, {fresh} of them new"
    print(json.dumps(report) if args.json else said)


def shard_rows(size: int) -> int:
    """Galaxies in a shard: whole blocks, of about 25 MB."""
    return int(np.clip(SHARD_PIXELS // size**2 // BLOCK * BLOCK, BLOCK, 1024))


def write_set(source: SimulatedSource, out: Path, workers: int) -> tuple[dict[str, Any], int]:
    """Writes the galaxies of `source` as a set; gives its manifest and how many were rendered now."""
    provenance = {"made_by": f"galaxysd simulate, {source.preset}", **source.describe()}
    with SetWriter(out, source.frame, provenance, source.chunk) as writer, StopSignals() as stop:
        done = writer.done()
        todo = [number for number in range(len(source.chunk_rows)) if number not in done]
        ready = source.n - sum(source.chunk_rows[number] for number in todo)
        fresh = 0
        with Progress("simulate", source.n, done=ready) as bar:
            shards = in_processes(source, todo, workers, stop) if workers > 1 and len(todo) > 1 else in_process(source, todo, stop)
            with contextlib.closing(shards):
                for number, galaxies in shards:
                    writer.write(number, galaxies)
                    fresh += len(galaxies)
                    bar.update(len(galaxies))
        if ready + fresh < source.n:
            raise Stopped(f"{out}: stopped by {stop.reason} with {ready + fresh} of {source.n} galaxies; the same command goes on")
        return writer.finish(), fresh


def in_process(source: SimulatedSource, todo: list[int], stop: StopSignals) -> Generator[tuple[int, Galaxies], None, None]:
    """Renders shards here, in one thread as a worker would."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for number in todo:
            if stop.requested:
                return
            yield number, source.load(number)
    finally:
        torch.set_num_threads(threads)


def in_processes(source: SimulatedSource, todo: list[int], workers: int, stop: StopSignals) -> Generator[tuple[int, Galaxies], None, None]:
    """Renders shards in worker processes and gives them as they are ready; on a request to stop, those under way and no more."""
    workers = min(workers, len(todo))
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_prepare)
    waiting = iter(todo)
    running: dict[Future[tuple[Any, ...]], int] = {}
    try:
        while True:
            # One more than the workers: it starts while the last one is written. A longer queue would delay a stop.
            while not stop.requested and len(running) <= workers and (number := next(waiting, None)) is not None:
                # A worker that starts here must not hear a Ctrl-C before it has learned to leave it to us: it would die talking.
                heard = signal.pthread_sigmask(signal.SIG_BLOCK, StopSignals.SIGNALS)
                try:
                    running[pool.submit(_render, source, number)] = number
                finally:
                    signal.pthread_sigmask(signal.SIG_SETMASK, heard)
            if stop.requested:
                running = {future: number for future, number in running.items() if not future.cancel()}
            if not running:
                return
            for future in wait(running, timeout=POLL, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), _unpacked(*future.result())
    except BrokenProcessPool as error:
        if not stop.requested:
            raise GalaxySDError("simulate: a worker died, perhaps for memory; run the same command again with fewer --workers") from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _prepare() -> None:
    """A worker leaves signals to its parent, computes in one thread, and does not outlive a parent that was killed."""
    for each in StopSignals.SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _render(source: SimulatedSource, number: int) -> tuple[Any, ...]:
    # As numpy arrays: torch would pass each tensor through a file descriptor of its own.
    galaxies = source.load(number)
    arrays = [each.numpy() for each in (galaxies.images, galaxies.counts, galaxies.numeric, galaxies.index)]
    return arrays, galaxies.ids, galaxies.extra


def _unpacked(arrays: list[np.ndarray[Any, Any]], ids: list[str], extra: dict[str, list[Any]]) -> Galaxies:
    images, counts, numeric, index = (torch.from_numpy(each) for each in arrays)
    return Galaxies(images, counts, numeric, index, ids, extra=extra)
