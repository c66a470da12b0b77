"""Other people's shards are decoded in a process of their own, under limits of memory and time; when it dies it is replaced.

What cannot be read is narrowed down to its rows: an error in words by halving the range, a death by reading row for row.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from galaxysd.data import layout, readers
from galaxysd.data.galaxies import Frame
from galaxysd.errors import GalaxySDError, Unavailable

SECONDS, MEMORY = 60, 4 << 30  # for one answer; beyond what the process has when it starts
ROW_SECONDS = 10
CONTEXT = multiprocessing.get_context("forkserver")  # a replacement starts in milliseconds, and never beside a GPU's driver


@dataclass(frozen=True)
class Good:
    """Consecutive rows that could be read."""

    first: int
    ids: list[str]
    images: Tensor


@dataclass(frozen=True)
class Bad:
    """A row that could not, and why."""

    row: int
    reason: str


class Shards:
    """Reads rows of the shards of a set, the last of which stays parsed."""

    def __init__(self, folder: Path) -> None:
        self._set = readers.open_set(folder)
        self._number, self._table = -1, pa.table({})
        self._where = ""

    def read(self, number: int, rows: range) -> tuple[list[str], np.ndarray]:
        """Ids and images of some rows of shard `number`; of none, only that the shard can be parsed."""
        if number != self._number:
            content, count, frame, self._where = self._set.verified(number)
            self._table, self._number = layout.parse(content, count, frame, self._where), number
        if not rows:
            return [], np.empty(0)
        galaxies = layout.unpack(self._table.slice(rows.start, len(rows)), len(rows), self._set.frame, self._where)
        return galaxies.ids, galaxies.images.numpy()


def _serve(pipe: Connection, folder: str, make: Callable[[Path], Any], memory: int) -> None:
    """The life of a decoding process: answers until its pipe closes. An alarm nobody catches ends an answer that takes too long."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + memory, used + memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    shards = None
    while True:
        try:
            asked = json.loads(pipe.recv_bytes())
        except EOFError:
            return
        signal.alarm(asked["seconds"])
        images = np.empty(0)
        try:
            shards = make(Path(folder)) if shards is None else shards
            ids, images = shards.read(asked["shard"], range(asked["start"], asked["stop"]))
            answer: dict[str, Any] = {"ids": ids}
        except (Unavailable, OSError) as error:
            answer = {"machine": str(error)}
        except GalaxySDError as error:
            answer = {"error": str(error)}
        except Exception as error:  # whatever a decoder makes of what it was given is a reason, and this process is the place for it
            answer = {"error": f"{type(error).__name__}: {str(error)[:200]}"}
        signal.alarm(0)
        pipe.send_bytes(json.dumps(answer).encode())
        if answer.get("ids"):
            pipe.send_bytes(np.ascontiguousarray(images).data.cast("B"))


class Decoder:
    """Reads the shards of a set for those who must not fall with them."""

    def __init__(
        self,
        folder: Path,
        frame: Frame,
        make: Callable[[Path], Any] = Shards,
        seconds: int = SECONDS,
        row_seconds: int = ROW_SECONDS,
        memory: int = MEMORY,
    ) -> None:
        self.folder, self.frame, self._make = Path(folder), frame, make
        self._seconds, self._row_seconds, self._memory = seconds, row_seconds, memory
        self.replaced = 0
        self._process: Any = None
        self._pipe: Connection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._drop()

    def _drop(self) -> None:
        if self._pipe is not None:
            self._pipe.close()
            self._process.kill()
            self._process.join()
            self._process.close()
        self._pipe = self._process = None

    def _started(self) -> Connection:
        if self._pipe is None:
            CONTEXT.set_forkserver_preload(["galaxysd.jobs.decoding"])
            self._pipe, theirs = CONTEXT.Pipe()
            words = (theirs, str(self.folder), self._make, self._memory)
            self._process = CONTEXT.Process(target=_serve, args=words, name="galaxysd-decode", daemon=True)
            self._process.start()
            theirs.close()
        return self._pipe

    def _ask(self, shard: int, rows: range, seconds: int) -> Good | str | None:
        """The rows, or why not in words; None when the process died of it or took too long."""
        pipe = self._started()
        try:
            pipe.send_bytes(json.dumps({"shard": shard, "start": rows.start, "stop": rows.stop, "seconds": seconds}).encode())
            if not pipe.poll(seconds + 5):
                raise EOFError
            answer = json.loads(pipe.recv_bytes())
            content = pipe.recv_bytes() if answer.get("ids") else b""
        except (EOFError, OSError):
            self._drop()
            self.replaced += 1
            return None
        if "machine" in answer:
            raise Unavailable(f"{self.folder}: shard {shard}: {answer['machine']}")
        if "error" in answer:
            return str(answer["error"])
        if not answer["ids"]:
            return Good(rows.start, [], torch.empty(0))
        pixels = np.frombuffer(bytearray(content), layout.DTYPES[self.frame.kind][0]).reshape(len(rows), *layout.image_shape(self.frame))
        return Good(rows.start, answer["ids"], torch.from_numpy(pixels))

    def _twice(self, shard: int, rows: range, seconds: int) -> Good | str:
        """Asks again after a death, which may have been another's fault."""
        for _ in range(2):
            answer = self._ask(shard, rows, seconds)
            if answer is not None:
                return answer
        return f"the process that read it died twice, or took more than {seconds} s or {self._memory >> 20} MiB"

    def rows(self, shard: int, count: int, piece: int) -> Iterator[Good | Bad]:
        """All `count` rows of a shard in order, about `piece` at a time."""
        opened = self._twice(shard, range(0), self._seconds)
        if isinstance(opened, str):
            yield from (Bad(row, opened) for row in range(count))
            return
        for first in range(0, count, piece):
            yield from self._narrowed(shard, range(first, min(count, first + piece)))

    def _narrowed(self, shard: int, rows: range) -> Iterator[Good | Bad]:
        answer = self._twice(shard, rows, self._row_seconds) if len(rows) == 1 else self._ask(shard, rows, self._seconds)
        if isinstance(answer, Good):
            yield answer
        elif len(rows) == 1:
            yield Bad(rows.start, str(answer))
        else:
            parts = [range(row, row + 1) for row in rows] if answer is None else [rows[: len(rows) // 2], rows[len(rows) // 2 :]]
            for part in parts:
                yield from self._narrowed(shard, part)
