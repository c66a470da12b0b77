"""A pool of worker processes on this machine that make shards of one plan, one after the other; the dead are replaced.

The driver gives numbers and takes answers; what a worker needs it reads from the job's folder, what it makes it commits itself. A
worker leaves when its driver is gone, and drops the shard in hand when it is asked to stop.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from multiprocessing import connection
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from galaxysd import errors
from galaxysd.errors import GalaxySDError, Mismatch, Stopped, Unavailable
from galaxysd.jobs import commits
from galaxysd.jobs import plan as plans
from galaxysd.jobs.plan import Plan
from galaxysd.jobs.sampling import GoOn, Sampler
from galaxysd.jobs.scanning import Scanner
from galaxysd.runlog import StopSignals

ATTEMPTS = 5  # of one shard, and of starting a worker
FAILURES = 8  # shards that may fail before the rest is not tried any more: a full disk fails every one
PAUSE = 0.5  # seconds before a shard that failed is tried again, doubled each time
DIED = "died"  # beside the names of errors
KINDS: dict[str, type[Sampler] | type[Scanner]] = {"sample": Sampler, "scan": Scanner}
CONTEXT = multiprocessing.get_context("spawn")

Answer = dict[str, Any]


def opened(folder: Path, sha256: str) -> Sampler | Scanner:
    """The job ready for work; refuses another plan than the one meant, another class of machine, another model."""
    plan = plans.read(folder)
    if plan.sha256 != sha256:
        raise Mismatch(f"{folder}: its plan is {plan.sha256[:12]}..., {sha256[:12]}... was to be worked on; another job took its place")
    plans.check_environment(plan, folder)
    return KINDS[plan.kind](folder, plan)


def shard(work: Sampler | Scanner, folder: Path, number: int, go_on: GoOn) -> Answer:
    """Makes and commits one shard; says what came of it."""
    began = time.monotonic()
    made = work.make(number, go_on)
    record = commits.commit(folder, number, made.table, made.bad)
    if record is None:
        return {"what": "lost", "shard": number}
    bad = 0 if made.bad is None else len(made.bad["rows"])
    return {"what": "done", "shard": number, "rows": record["rows"], "bad": bad, "seconds": time.monotonic() - began}


def _work(pipe: Connection, folder: str, sha256: str) -> None:
    """The life of a worker process."""
    for each in StopSignals.SIGNALS:
        signal.signal(each, signal.SIG_IGN)  # they are for the driver, which tells its workers
    driver = multiprocessing.parent_process()
    assert driver is not None

    def leave_with_driver() -> None:
        connection.wait([driver.sentinel])
        os._exit(1)

    threading.Thread(target=leave_with_driver, daemon=True).start()
    torch.set_num_threads(1)

    def say(answer: Answer) -> None:
        pipe.send_bytes(json.dumps(answer).encode())

    def go_on(_: int) -> None:
        if pipe.poll():
            raise Stopped("asked to stop")

    number = None
    try:
        work = opened(Path(folder), sha256)
        say({"what": "ready"})
        while (number := json.loads(pipe.recv_bytes())) is not None:
            try:
                say(shard(work, Path(folder), number, go_on))
            except Stopped:
                return
            except GalaxySDError as error:
                say({"what": "failed", "shard": number, "kind": type(error).__name__, "reason": str(error)})
    except (EOFError, BrokenPipeError):
        return
    except GalaxySDError as error:
        say({"what": "refused", "kind": type(error).__name__, "reason": str(error)})


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    ready: bool = False
    shard: int | None = None

    def give(self, number: int | None) -> bool:
        """Hands over a shard, or with None the wish that it stop; False when it is dead."""
        try:
            self.pipe.send_bytes(json.dumps(number).encode())
        except OSError:
            return False
        self.shard = number
        return True

    def end(self) -> None:
        self.pipe.close()
        self.process.join()
        self.process.close()


@dataclass
class Pool:
    """Makes the shards of `todo`, telling each answer to `told`. What could not be made stands in `failed` with its error."""

    folder: Path
    plan: Plan
    workers: int
    told: Callable[[Answer], None]
    failed: dict[int, GalaxySDError] = field(default_factory=dict)
    _crew: list[_Worker] = field(default_factory=list)
    _waiting: deque[int] = field(default_factory=deque)
    _later: list[tuple[float, int]] = field(default_factory=list)
    _tries: Counter[int] = field(default_factory=Counter)
    _unready: int = 0

    def run(self, todo: Iterable[int], stop: StopSignals) -> None:
        """Until all is made or has failed, too much has failed, or a stop is requested."""
        self._waiting = deque(todo)
        try:
            while not stop.requested and len(self.failed) < FAILURES and self._unfinished():
                self._crew_up()
                self._hand_out()
                for pipe in connection.wait([each.pipe for each in self._crew], timeout=0.2):
                    self._hear(next(each for each in self._crew if each.pipe is pipe))
            for worker in self._crew:
                worker.give(None)
            for worker in self._crew:
                self._last_words(worker)
        finally:
            for worker in self._crew:
                worker.process.kill()
                worker.end()
            self._crew = []

    def _unfinished(self) -> bool:
        return bool(self._waiting or self._later) or any(each.shard is not None for each in self._crew)

    def _crew_up(self) -> None:
        busy = sum(each.shard is not None for each in self._crew)
        while len(self._crew) < min(self.workers, busy + len(self._waiting) + len(self._later)):
            mine, theirs = CONTEXT.Pipe()
            process = CONTEXT.Process(target=_work, args=(theirs, str(self.folder), self.plan.sha256), name="galaxysd-worker")
            process.start()
            theirs.close()
            self._crew.append(_Worker(process, mine))

    def _hand_out(self) -> None:
        now = time.monotonic()
        self._waiting.extendleft(number for when, number in self._later if when <= now)
        self._later = [each for each in self._later if each[0] > now]
        for worker in self._crew:
            if worker.ready and worker.shard is None and self._waiting:
                number = self._waiting.popleft()
                if not worker.give(number):
                    self._waiting.appendleft(number)

    def _hear(self, worker: _Worker) -> None:
        try:
            answer = json.loads(worker.pipe.recv_bytes())
        except (EOFError, OSError):
            self._bury(worker)
            return
        if answer["what"] == "refused" or answer.get("kind") == Mismatch.__name__:
            raise error_of(answer["kind"], answer["reason"])
        if answer["what"] == "ready":
            worker.ready, self._unready = True, 0
            return
        worker.shard = None
        self._take(answer)

    def _take(self, answer: Answer) -> None:
        if answer["what"] == "failed":
            # What is wrong with the machine may pass; what is wrong with the job comes again.
            self._again(answer["shard"], answer["reason"], answer["kind"])
        self.told(answer)

    def _bury(self, worker: _Worker) -> None:
        """Lets go of a dead worker; what it was at is tried again."""
        self._crew.remove(worker)
        worker.process.join()
        code = worker.process.exitcode
        how = f"signal {signal.Signals(-code).name}" if code and code < 0 else f"exit code {code}"
        worker.end()
        if worker.shard is not None:
            self.told({"what": "died", "shard": worker.shard, "how": how})
            self._again(worker.shard, f"its worker died of {how}", DIED)
        elif not worker.ready:
            self._unready += 1
            if self._unready >= ATTEMPTS:
                raise Unavailable(f"{self.folder}: {ATTEMPTS} workers in a row died of {how} while they started; is there memory for them?")

    def _again(self, number: int, reason: str, kind: str) -> None:
        self._tries[number] += 1
        if kind in (DIED, Unavailable.__name__) and self._tries[number] < ATTEMPTS:
            self._later.append((time.monotonic() + PAUSE * 2 ** (self._tries[number] - 1), number))
        else:
            times = f", {self._tries[number]} times" if self._tries[number] > 1 else ""
            self.failed[number] = error_of(kind, f"shard {number}: {reason}{times}")

    def _last_words(self, worker: _Worker) -> None:
        """What a worker that was asked to stop still finished."""
        try:
            while True:
                answer = json.loads(worker.pipe.recv_bytes())
                if answer["what"] not in ("ready", "refused"):
                    self._take(answer)
        except (EOFError, OSError):
            pass


def error_of(kind: str, reason: str) -> GalaxySDError:
    """The error that a worker met, as the driver's own; a worker's death is no kind of ours."""
    found: type[GalaxySDError] = getattr(errors, kind, GalaxySDError)
    return found(reason)
