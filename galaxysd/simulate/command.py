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
from galaxysd.errors import BadInput, GalaxySDError, Stopped
from galaxysd.runlog import Progress, StopSignals
from galaxysd.simulate import recipe as recipes
from galaxysd.simulate.latents import BLOCK, FEATURES
from galaxysd.simulate.populations import POPULATIONS
from galaxysd.simulate.recipe import POSES, Recipe
from galaxysd.simulate.survey import SimulatedSource
from galaxysd.simulate.telescopes import TELESCOPES
from galaxysd.simulate.views import PIXELS, View

SHARD_PIXELS = 1 << 21  # pixels of one band in a shard: 25 MB of images
POLL = 0.2  # seconds between looks at a request to stop


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--n", type=int, help="how many galaxies (as many as --latents has rows)")
    parser.add_argument("--size", type=int, default=64, help="pixels on a side; the field of view stays the same (%(default)s)")
    parser.add_argument("--preset", choices=sorted(POPULATIONS), default="survey", help="the population (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="index of the first galaxy: disjoint ranges are disjoint sets (%(default)s)")
    add_recipe_arguments(parser)
    parser.add_argument("--truth", action="store_true", help="also flux without noise, segmentation, feature masks and boxes")
    parser.add_argument("--workers", type=int, help="processes, of one thread each; changes no byte (all cores)")
    parser.add_argument("--out", type=Path, required=True, help="a new folder, or the unfinished set of the same command")
    parser.add_argument("--json", action="store_true")


def add_recipe_arguments(parser: argparse.ArgumentParser) -> None:
    """Which galaxies of the preset, and how they are seen."""
    parser.add_argument("--pose", choices=POSES, help="major axes along +x, or at random (as the preset has it)")
    parser.add_argument(
        "--latents", type=Path, metavar="TABLE", help="a Parquet or CSV table of latents, a row a galaxy; what it leaves open is drawn"
    )
    parser.add_argument("--latent", action="append", default=[], metavar="NAME=VALUE", help="one latent, the same for every galaxy")
    parser.add_argument("--sweep", metavar="NAME=A:B", help="one galaxy, number --first, --n times: a latent from A to B, all else fixed")
    parser.add_argument("--without", action="append", default=[], metavar="FEATURE", help=f"take a feature away: {', '.join(FEATURES)}")
    parser.add_argument("--telescope", default="sdss", help=f"whose optics, bands, depth: {', '.join(TELESCOPES)} (%(default)s)")
    parser.add_argument("--pixels", choices=PIXELS, default="arcsec", help="one scale for all, or each stamp scaled by R90 (%(default)s)")
    parser.add_argument("--field", type=float, help="side of a stamp, arcsec or R90 (the preset's, or 3.2 R90)")
    parser.add_argument("--redshift", type=float, help="move every galaxy there: smaller, fainter, redder")


def run(args: argparse.Namespace) -> None:
    if args.n is not None and args.n < 1:
        raise GalaxySDError(f"--n {args.n}: a set needs at least 1 galaxy")
    if args.first < 0:
        raise GalaxySDError(f"--first {args.first}: galaxies are numbered from 0")
    workers = len(os.sched_getaffinity(0)) if args.workers is None else args.workers
    if workers < 1:
        raise GalaxySDError(f"--workers {workers}: give at least 1")
    began = time.monotonic()
    recipe, first = recipe_of(args)
    if args.n is None and recipe.rows is None:
        raise GalaxySDError("--n: say how many galaxies; only a table of latents says it itself")
    n = args.n if args.n is not None else (recipe.rows or 0) - first
    view = View(args.telescope, args.pixels, args.field, args.redshift)
    rows = shard_rows(args.size) // (4 if args.truth else 1)
    source = SimulatedSource(recipe, args.seed, first, n, args.size, max(BLOCK, rows // BLOCK * BLOCK), view, args.truth)
    manifest, fresh = write_set(source, args.out, workers)
    report = {"out": str(args.out), "rows": manifest["rows"], "shards": len(manifest["shards"]), "rendered": fresh,
              "seconds": round(time.monotonic() - began, 2)}  # fmt: skip
    said = f"{report['rows']} galaxies in {args.out}, {fresh} of them new"
    print(json.dumps(report) if args.json else said)


def recipe_of(args: argparse.Namespace) -> tuple[Recipe, int]:
    """The galaxies these arguments ask for, and the number of the first row."""
    fixed = recipes.fixed(dict(_setting(each, "--latent") for each in args.latent))
    more: dict[str, Any] = {"pose": args.pose, "without": tuple(args.without), "fixed": fixed}
    if args.sweep is not None:
        if args.latents is not None:
            raise BadInput("--sweep and --latents: give one of the two; a sweep is a table of its own")
        if args.n is None:
            raise BadInput("--n: say in how many steps to sweep")
        name, _, text = args.sweep.partition("=")
        low, _, high = text.partition(":")
        try:
            ends = float(low), float(high)
        except ValueError:
            raise BadInput(f"--sweep {args.sweep}: write it like pitch=8:35") from None
        return recipes.sweep(args.preset, args.first, name.strip(), *ends, args.n, **more), 0
    if args.latents is not None:
        return recipes.tabled(args.preset, read_table(args.latents), **more), args.first
    return Recipe(args.preset, **more), args.first


def _setting(text: str, option: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise BadInput(f"{option} {text}: write it like r90=12")
    return name.strip(), value.strip()


def read_table(path: Path) -> dict[str, list[Any]]:
    """A table of latents by column, from Parquet or CSV; a column `id` or `index` is passed over."""
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet as pq

    if not path.is_file():
        raise BadInput(f"--latents {path}: no such file")
    try:
        table = pq.read_table(path) if path.suffix != ".csv" else pyarrow.csv.read_csv(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise BadInput(f"--latents {path}: neither Parquet nor CSV ({error})") from error
    if not table.num_rows:
        raise BadInput(f"--latents {path}: the table has no rows; a population needs at least one galaxy")
    return {name: table[name].to_pylist() for name in table.column_names if name not in ("id", "index")}


def shard_rows(size: int) -> int:
    """Galaxies in a shard: whole blocks, of about 25 MB."""
    return int(np.clip(SHARD_PIXELS // size**2 // BLOCK * BLOCK, BLOCK, 1024))


def write_set(source: SimulatedSource, out: Path, workers: int) -> tuple[dict[str, Any], int]:
    """Writes the galaxies of `source` as a set; gives its manifest and how many were rendered now."""
    provenance = {"made_by": f"galaxysd simulate, {recipes.of(source.preset).preset}", **source.describe()}
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
