"""Jobs of a tiny model for tests: planned by the command line, run in pools whose workers are forked, killed at random moments.

A forked worker has imported everything already, so that a death costs milliseconds; that real ones are spawned is tested too.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import random
import signal
import struct
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from galaxysd import files
from galaxysd.cli import main
from galaxysd.errors import Mismatch
from galaxysd.jobs import commits, decoding, finalize, pool
from galaxysd.jobs import plan as plans
from galaxysd.jobs.sampling import Sampler
from tests import tiny

CALLS = ("fsync", "link", "replace", "unlink", "rename")
QUICK = ("--sampler", "euler", "--steps", "1", "--guidance", "1", "--dtype", "fp32")


def model(out: Path) -> Path:
    """A model whose units hold 16 galaxies."""
    tiny.run(out, "train.steps=4", "sample.unit=16")
    return out


def planned(run: Path, job: Path, n: int, *words: str, shard_rows: int = 32) -> Path:
    """A planned sample."""
    sizes = ("--n", str(n), "--shard-rows", str(shard_rows), "--probe", "0", "--seed", "3")
    assert main(["jobs", "plan", "sample", str(run), *sizes, *QUICK, *words, "--out", str(job)]) == 0
    return job


def run(job: Path, *words: str) -> int:
    return main(["jobs", "run", str(job), *words])


def union(job: Path) -> str:
    """The union digest of a whole job."""
    return str(finalize.finalized(job, plans.read(job), "other")["union"])


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file below a folder, with what changes when it is written."""
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_ino) for path in folder.rglob("*") if path.is_file()}


def fork_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "CONTEXT", multiprocessing.get_context("fork"))
    # A forked worker would take its parent's server of decoders for its own.
    monkeypatch.setattr(decoding, "CONTEXT", multiprocessing.get_context("spawn"))


@dataclass
class Kills:
    """What happened to a job that was killed again and again."""

    phases: Counter[str] = field(default_factory=Counter)
    units: int = 0  # computed, the repeated ones included

    @property
    def total(self) -> int:
        return sum(self.phases.values())


class Shared:
    """What the processes of a job tell the test: how many commits are struck down from inside, and how many units were computed."""

    def __init__(self, folder: Path) -> None:
        self.memory = mmap.mmap(-1, 16)
        self.units = folder.with_name(f"{folder.name}.units")

    def arm(self, calls: int) -> None:
        """The next process to make so many system calls inside a commit dies at the last of them; 0: nobody."""
        struct.pack_into("q", self.memory, 0, calls)

    def struck(self) -> int:
        return int(struct.unpack_from("q", self.memory, 8)[0])

    def count_down(self) -> None:
        left = struct.unpack_from("q", self.memory, 0)[0]
        if left:
            struct.pack_into("q", self.memory, 0, left - 1)
            if left == 1:
                struct.pack_into("q", self.memory, 8, self.struck() + 1)
                os.kill(os.getpid(), signal.SIGKILL)


def _driver(job: Path, workers: int, shared: Shared) -> None:
    """A forked driver: its workers inherit the counting."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)
    torch.set_num_threads(1)
    inside = False

    def counted(call):
        def made(*arguments, **options):
            if inside:
                shared.count_down()
            return call(*arguments, **options)

        return made

    commit, draw = commits.commit, Sampler.draw

    def committing(*arguments):
        nonlocal inside
        inside = True
        try:
            return commit(*arguments)
        finally:
            inside = False

    def drawing(self, index):
        for part in draw(self, index):
            with shared.units.open("ab") as file:
                file.write(b"u")
            yield part

    commits.commit, Sampler.draw = committing, drawing
    for name in CALLS:
        setattr(os, name, counted(getattr(os, name)))
    pool.CONTEXT = multiprocessing.get_context("fork")
    pool.PAUSE = 0.01
    code = 1
    try:
        code = run(job, "--workers", str(workers))
    finally:
        os._exit(code)


def _children(process: int) -> list[int]:
    try:
        return [int(each) for each in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def _lives(process: int) -> bool:
    return os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def kill_until_done(job: Path, workers: int, wanted: int, seed: int, pause: float) -> Kills:
    """Runs a job to its end; on its way drivers and workers die `wanted` times or as often as there is time for.

    Half of the deaths are dealt from outside, after up to `pause` seconds, to the driver or a worker; half strike inside a commit.
    """
    draw, kills, shared, refused = random.Random(seed), Kills(), Shared(job), 0
    while True:
        driver = os.fork()
        if driver == 0:
            _driver(job, workers, shared)
        while _lives(driver):
            if kills.total >= wanted:
                time.sleep(0.01)
            elif draw.random() < 0.5:
                before = shared.struck()
                shared.arm(draw.randrange(1, 9))
                while _lives(driver) and shared.struck() == before:
                    time.sleep(0.002)
                kills.phases["commit"] += shared.struck() - before
            else:
                time.sleep(draw.uniform(0.0, pause))
                victim = draw.choice([driver, *_children(driver)])
                # A driver that has ended since is not waited for yet, so its number is nobody else's; a worker's parent is the driver.
                if victim == driver or victim in _children(driver):
                    os.kill(victim, signal.SIGKILL)
                    kills.phases["driver" if victim == driver else "worker"] += 1
        _, status = os.waitpid(driver, 0)
        if os.WIFSIGNALED(status):
            assert os.WTERMSIG(status) == signal.SIGKILL
        elif os.WEXITSTATUS(status) == Mismatch.exit_code and refused < 500:
            # A forked worker has its dead driver's lock until it has noticed; a spawned one has not.
            refused += 1
            time.sleep(0.02)
        else:
            assert os.WEXITSTATUS(status) == 0, f"the driver left with {os.WEXITSTATUS(status)}"
            break
    kills.units = shared.units.stat().st_size
    return kills


def race(folder: Path, racers: int, shards: int) -> list[list[int]]:
    """Processes that commit the same shards, each with bytes of its own; gives which shards each of them won."""
    import pyarrow as pa

    children = []
    for racer in range(racers):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                order = list(range(shards))
                random.Random(racer % 2).shuffle(order)  # many meet, and some come late
                table = pa.table({"id": [f"{racer}"] * 8, "index": list(range(8))})
                won = [number for number in order if commits.commit(folder, number, table) is not None]
                (folder / f"won-{racer}").write_text(" ".join(map(str, won)))
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    for child in children:
        assert os.waitpid(child, 0)[1] == 0
    return [list(map(int, (folder / f"won-{racer}").read_text().split())) for racer in range(racers)]


def faithful(folder: Path, shards: int) -> int:
    """How many shards stand as their records say."""
    return sum(commits.problem(folder, number, thorough=True) is None for number in range(shards))


def leftovers(folder: Path) -> list[Path]:
    return list(folder.rglob(f"{files.TEMPORARY}*"))
