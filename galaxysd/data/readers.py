"""Reading sets as a stream: verified shards, a seeded order that any restart and worker count reproduce, batches with read-ahead."""

from __future__ import annotations

import bisect
import hashlib
import itertools
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar, overload

import torch
from torch import Tensor

from galaxysd import files, seeds
from galaxysd.data import layout, shards
from galaxysd.data.galaxies import Frame, Galaxies
from galaxysd.errors import BadInput, GalaxySDError

CACHE_BYTES = 1 << 30
T = TypeVar("T")


class Source(Protocol):
    """Where galaxies come from, in chunks that are loaded whole: a set on disk, or a simulated survey."""

    frame: Frame
    chunk_rows: Sequence[int]

    def load(self, k: int) -> Galaxies:
        """The galaxies of chunk k."""
        ...

    def describe(self) -> dict[str, Any]:
        """What a model trained on this records, to know later what it has seen."""
        ...


class GalaxySet:
    """A finished set on disk. Nothing of a shard is parsed before its bytes match its record."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        about, self.manifest = _read_about(self.folder)
        self.frame = Frame.from_json(about["frame"])
        self.provenance: dict[str, Any] = about["provenance"]
        self.chunk_rows: Sequence[int] = [record["rows"] for record in self.manifest["shards"]]

    def __len__(self) -> int:
        return sum(self.chunk_rows)

    def load(self, k: int) -> Galaxies:
        """The galaxies of shard k."""
        return layout.decode(*self.verified(k))

    def ids(self, k: int) -> list[str]:
        """The ids of shard k."""
        return layout.decode_ids(*self.verified(k))

    def verified(self, k: int) -> tuple[bytes, int, Frame, str]:
        """The bytes of shard k as recorded, its rows, its frame, and what to call it."""
        path = self.folder / "data" / shards.shard_name(k)
        record = shards.read_record(self.folder, k)
        listed = self.manifest["shards"][k]
        if record != listed:
            name = next(name for name in record if record[name] != listed[name])
            raise BadInput(f"{path}: {name} is {record[name]!r} in its record and {listed[name]!r} in the manifest; one is damaged")
        content = files.read_verified(path, files.Digest(record["size"], record["sha256"]))
        return content, record["rows"], self.frame, str(path)

    def read(self, limit: int | None = None) -> Galaxies:
        """The first `limit` galaxies, or all: for sets known to fit into memory."""
        parts, left = [], len(self) if limit is None else limit
        if left < 1:
            raise GalaxySDError(f"{self.folder}: {left} galaxies asked for; ask for at least 1")
        for k, rows in enumerate(self.chunk_rows):
            if left <= 0:
                break
            part = self.load(k)
            parts.append(part if rows <= left else part.rows(torch.arange(left)))
            left -= rows
        return Galaxies.joined(parts)

    def hashed_ids(self) -> list[str]:
        """The ids of all galaxies, each as the first 16 hex digits of its SHA-256, sorted."""
        return sorted(hashlib.sha256(name.encode()).hexdigest()[:16] for k in range(len(self.chunk_rows)) for name in self.ids(k))

    def describe(self) -> dict[str, Any]:
        return {
            "set": files.digest(self.folder / "manifest.json").sha256,
            "ids": hashlib.sha256("\n".join(self.hashed_ids()).encode()).hexdigest(),
            "n": len(self),
            "made_by": str(self.provenance.get("made_by", "")),
            "is_synthetic": bool(self.provenance["is_synthetic"]),
        }


def open_set(folder: Path) -> GalaxySet:
    """Opens a finished set."""
    return GalaxySet(folder)


def _read_about(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The description and the manifest of a set, checked as far as that goes without reading shards."""
    if not folder.is_dir():
        raise BadInput(f"{folder}: no such folder")
    if not (folder / "set.json").exists():
        raise BadInput(f"{folder}: not a set (it has no set.json)")
    about = files.read_json(folder / "set.json")
    if not (folder / "manifest.json").exists():
        raise BadInput(f"{folder}: an unfinished set (no manifest.json); run the command that writes it again, and it goes on")
    manifest = files.read_json(folder / "manifest.json")
    for name, value in (("set.json", about), ("manifest.json", manifest)):
        if not isinstance(value, dict) or "schema_version" not in value:
            raise BadInput(f"{folder / name}: not a description of a set")
        if value["schema_version"] != shards.SCHEMA_VERSION:
            raise BadInput(
                f"{folder / name}: schema_version {value['schema_version']!r}, this galaxysd reads {shards.SCHEMA_VERSION}; "
                "use the galaxysd that wrote it"
            )
    if not isinstance(about.get("provenance"), dict) or not isinstance(about["provenance"].get("is_synthetic"), bool):
        raise BadInput(f"{folder / 'set.json'}: no provenance with is_synthetic, so real and generated cannot be told apart")
    found = hashlib.sha256((folder / "set.json").read_bytes()).hexdigest()
    if manifest.get("set") != found:
        said = str(manifest.get("set"))
        raise BadInput(f"{folder / 'set.json'}: SHA-256 {found[:12]}..., manifest.json says {said[:12]}...; it was changed")
    listed = manifest.get("shards")
    if not isinstance(listed, list) or not listed:
        raise BadInput(f"{folder / 'manifest.json'}: lists no shards")
    for number, record in enumerate(listed):
        shards.check_record(record, number, f"{folder / 'manifest.json'}")
    if manifest.get("rows") != sum(record["rows"] for record in listed):
        raise BadInput(f"{folder / 'manifest.json'}: {manifest.get('rows')} rows, its shards have {sum(r['rows'] for r in listed)}")
    return about, manifest


class Order:
    """In which order a source is read, endlessly: a pure function of (chunk_rows, seed, window, position).

    Each epoch permutes the chunks, then the rows within each `window` of chunks, so that only about a window of chunks is needed at a time.
    """

    def __init__(self, chunk_rows: Sequence[int], seed: int, window: int = 8) -> None:
        if not chunk_rows or min(chunk_rows) < 1 or window < 1:
            raise GalaxySDError(f"order: {len(chunk_rows)} chunks and a window of {window}; at least one row, chunk and window are needed")
        self.chunk_rows, self.seed, self.window = list(chunk_rows), seed, window
        self.n = sum(self.chunk_rows)
        self._windows = -(-len(self.chunk_rows) // window)
        self._lock = threading.Lock()
        self._epochs: OrderedDict[int, tuple[list[int], list[int]]] = OrderedDict()
        self._shuffled: OrderedDict[tuple[int, int], Tensor] = OrderedDict()

    @classmethod
    def of(cls, source: Source, seed: int, cache_bytes: int = CACHE_BYTES) -> Order:
        """The order of a source with a window of 8 chunks, or as many as fit `cache_bytes`."""
        return cls(source.chunk_rows, seed, max(1, min(8, cache_bytes // (max(source.chunk_rows) * layout.image_bytes(source.frame)))))

    def at(self, position: int) -> tuple[int, int]:
        """The chunk and row at a position; position // n is the epoch."""
        chunk, row = self.span(position, position + 1)[0].tolist()
        return chunk, row

    def span(self, start: int, stop: int) -> Tensor:
        """Chunk and row at each of the positions start..stop-1: int64 [stop - start, 2]."""
        if start < 0:
            raise GalaxySDError(f"order: position {start}; positions start at 0")
        parts = []
        while start < stop:
            epoch, inside = divmod(start, self.n)
            with self._lock:
                chunks, ends = self._epoch(epoch)
                window = bisect.bisect_right(ends, inside)
                rows = self._rows(epoch, window, chunks)
            first = ends[window] - len(rows)
            part = rows[inside - first : inside - first + stop - start]
            parts.append(part)
            start += len(part)
        return torch.cat(parts)

    def _epoch(self, epoch: int) -> tuple[list[int], list[int]]:
        """The chunks of an epoch in their order, and where each window ends."""
        if epoch not in self._epochs:
            chunks = seeds.permutation(self.seed, "order-chunks", len(self.chunk_rows), step=epoch).tolist()
            rows = [sum(self.chunk_rows[k] for k in chunks[i : i + self.window]) for i in range(0, len(chunks), self.window)]
            self._epochs[epoch] = (chunks, list(itertools.accumulate(rows)))
            while len(self._epochs) > 2:
                self._epochs.popitem(last=False)
        return self._epochs[epoch]

    def _rows(self, epoch: int, window: int, chunks: list[int]) -> Tensor:
        """Chunk and row of each position in a window: int64 [rows, 2]."""
        name = (epoch, window)
        if name not in self._shuffled:
            members = chunks[window * self.window : (window + 1) * self.window]
            rows = torch.cat([torch.stack((torch.full((self.chunk_rows[k],), k), torch.arange(self.chunk_rows[k])), -1) for k in members])
            self._shuffled[name] = rows[seeds.permutation(self.seed, "order-rows", len(rows), step=epoch * self._windows + window)]
            while len(self._shuffled) > 3:
                self._shuffled.popitem(last=False)
        return self._shuffled[name]


class _Chunks:
    """The chunks in memory: each is loaded once by whoever asks first, and the least recently used one leaves first."""

    def __init__(self, source: Source, limit: int) -> None:
        self.source, self.limit = source, limit
        self.lock = threading.Lock()
        self.held: OrderedDict[int, Future[Galaxies]] = OrderedDict()

    def get(self, k: int) -> Galaxies:
        with self.lock:
            mine = k not in self.held
            future = self.held.setdefault(k, Future())
            self.held.move_to_end(k)
            if mine:
                self._make_room()
        if mine:
            try:
                future.set_result(self.source.load(k))
            except BaseException as error:
                future.set_exception(error)
        return future.result()

    def _make_room(self) -> None:
        size = layout.image_bytes(self.source.frame)
        rows = sum(self.source.chunk_rows[k] for k in self.held)
        while len(self.held) > 1 and rows * size > self.limit:
            oldest, _ = self.held.popitem(last=False)
            rows -= self.source.chunk_rows[oldest]


@overload
def batches(
    source: Source, order: Order, start: int, batch: int, workers: int = ..., cache_bytes: int = ..., rows: range | None = ...
) -> Generator[Galaxies]: ...
@overload
def batches(
    source: Source,
    order: Order,
    start: int,
    batch: int,
    workers: int = ...,
    cache_bytes: int = ...,
    rows: range | None = ...,
    *,
    finish: Callable[[int, Galaxies], T],
) -> Generator[T]: ...
def batches(
    source: Source,
    order: Order,
    start: int,
    batch: int,
    workers: int = 0,
    cache_bytes: int = CACHE_BYTES,
    rows: range | None = None,
    *,
    finish: Callable[[int, Galaxies], Any] = lambda number, galaxies: galaxies,
) -> Generator[Any]:
    """Batch `start`, `start` + 1, ... without end: batch b holds the positions b * batch and on. `workers` threads read ahead.

    The batches are the same for any number of workers and any start; `rows` are the places in each that are wanted, otherwise all.
    `finish` makes something else of a batch and its number, by the thread that read it.
    """
    if batch < 1 or workers < 0 or start < 0:
        raise GalaxySDError(f"batches: start {start}, batch {batch}, workers {workers}; batch is at least 1, the others at least 0")
    rows = range(batch) if rows is None else rows
    if not 0 <= rows.start < rows.stop <= batch or rows.step != 1:
        raise GalaxySDError(f"batches: rows {rows.start} to {rows.stop} of a batch of {batch}; a part of it is needed")
    if list(source.chunk_rows) != order.chunk_rows:
        raise GalaxySDError(f"batches: the order is of {order.n} rows, the source has {sum(source.chunk_rows)}")
    largest = sorted(source.chunk_rows)[-order.window :]
    needed = sum(largest) * layout.image_bytes(source.frame)
    if needed > cache_bytes:
        raise GalaxySDError(
            f"batches: {order.window} chunks at a time need {needed >> 20} MiB, {cache_bytes >> 20} MiB are allowed; "
            "give more, or a smaller window of the order"
        )
    chunks = _Chunks(source, cache_bytes)

    def assemble(number: int) -> Any:
        places = order.span(number * batch + rows.start, number * batch + rows.stop)
        parts, origin = [], []
        for k in dict.fromkeys(places[:, 0].tolist()):
            here = (places[:, 0] == k).nonzero()[:, 0]
            parts.append(chunks.get(k).rows(places[here, 1]))
            origin.append(here)
        return finish(number, Galaxies.joined(parts).rows(torch.argsort(torch.cat(origin))))

    return _ahead(assemble, start, workers) if workers else (assemble(number) for number in itertools.count(start))


def _ahead(assemble: Callable[[int], Any], start: int, workers: int) -> Generator[Any]:
    # One thread of arithmetic each: a reader with a team of its own would spin on the cores that train.
    pool = ThreadPoolExecutor(workers, "galaxysd-read", initializer=torch.set_num_threads, initargs=(1,))
    try:
        waiting = deque(pool.submit(assemble, start + i) for i in range(2 * workers))
        for number in itertools.count(start + 2 * workers):
            made = waiting.popleft().result()
            waiting.append(pool.submit(assemble, number))
            yield made
    finally:
        pool.shutdown(cancel_futures=True)
