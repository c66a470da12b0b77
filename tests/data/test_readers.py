"""Reading sets: order, batches, and every kind of damage."""

from __future__ import annotations

import itertools
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from galaxysd.data import layout
from galaxysd.data.galaxies import Frame, Galaxies
from galaxysd.data.readers import Order, batches, open_set
from galaxysd.errors import BadInput, GalaxySDError

CHUNKS = st.lists(st.integers(1, 12), min_size=1, max_size=9)


@given(CHUNKS, st.integers(0, 5), st.integers(1, 10), st.integers(0, 3))
def test_each_epoch_visits_every_row_once(chunk_rows: list[int], seed: int, window: int, epoch: int) -> None:
    order = Order(chunk_rows, seed, window)
    n = sum(chunk_rows)
    places = [tuple(place) for place in order.span(epoch * n, (epoch + 1) * n).tolist()]
    assert sorted(places) == [(k, row) for k, rows in enumerate(chunk_rows) for row in range(rows)]
    # No more than a window of chunks is open at a time: chunks come in groups that end before the next begins.
    groups = [len(list(group)) for _, group in itertools.groupby(_windows(places, window))]
    assert len(groups) == -(-len(chunk_rows) // window)


def _windows(places: list[tuple[int, int]], window: int) -> list[int]:
    first_seen = list(dict.fromkeys(chunk for chunk, _ in places))
    return [first_seen.index(chunk) // window for chunk, _ in places]


@given(CHUNKS, st.integers(0, 5), st.integers(1, 4), st.integers(0, 60), st.integers(0, 40))
def test_any_start_continues_the_same_order(chunk_rows: list[int], seed: int, window: int, start: int, length: int) -> None:
    whole = Order(chunk_rows, seed, window).span(0, start + length + 1)
    fresh = Order(chunk_rows, seed, window)
    assert torch.equal(fresh.span(start, start + length + 1), whole[start:])
    assert fresh.at(start) == tuple(whole[start].tolist())


def test_each_epoch_has_an_order_of_its_own_of_chunks_and_of_rows() -> None:
    chunks, rows = Order([1] * 24, seed=4, window=1), Order([24], seed=4, window=1)
    for order, column in ((chunks, 0), (rows, 1)):
        epochs = [order.span(24 * epoch, 24 * epoch + 24)[:, column].tolist() for epoch in range(3)]
        assert all(sorted(each) == list(range(24)) != each for each in epochs)
        assert len({tuple(each) for each in epochs}) == 3


def test_seeds_and_epochs_differ_and_windows_mix_chunks() -> None:
    order = Order([50] * 8, 0, 4)
    first, second = order.span(0, 400), order.span(400, 800)
    assert not torch.equal(first, second)
    assert not torch.equal(first, Order([50] * 8, 1, 4).span(0, 400))
    # Neighbours come from different chunks about three times in four.
    changes = (first[1:200, 0] != first[:199, 0]).float().mean()
    assert 0.6 < float(changes) < 0.9


@pytest.mark.parametrize(("chunk_rows", "window"), [([], 8), ([3, 0], 8), ([3], 0)])
def test_an_order_of_nothing_is_refused(chunk_rows: list[int], window: int) -> None:
    with pytest.raises(GalaxySDError, match="at least one row, chunk and window"):
        Order(chunk_rows, 0, window)


class Counting:
    """A source in memory that counts what is loaded."""

    def __init__(self, make: Any, chunk_rows: list[int]) -> None:
        self.frame = Frame("flux", 8)
        self.chunk_rows = chunk_rows
        self.make, self.loads, self.lock = make, [0] * len(chunk_rows), threading.Lock()

    def load(self, k: int) -> Galaxies:
        with self.lock:
            self.loads[k] += 1
        return self.make(self.chunk_rows[k], sum(self.chunk_rows[:k]))

    def describe(self) -> dict[str, Any]:
        return {}


def take(n: int, *args: Any, **options: Any) -> list[Galaxies]:
    return list(itertools.islice(batches(*args, **options), n))


def test_batches_hold_the_rows_of_their_positions(make: Any) -> None:
    source = Counting(make, [7, 5, 9, 3])
    order = Order(source.chunk_rows, 3, window=2)
    whole = make(24)
    for number, galaxies in enumerate(take(7, source, order, 0, 10)):
        starts = [0, 7, 12, 21]
        expected = [starts[k] + row for k, row in order.span(number * 10, number * 10 + 10).tolist()]
        assert galaxies.index.tolist() == expected
        assert torch.equal(galaxies.images, whole.images[expected])
        assert galaxies.ids == [f"g-{i}" for i in expected]


@pytest.mark.parametrize("workers", [0, 2])
def test_parts_of_batches_are_the_batches(make: Any, workers: int) -> None:
    source = Counting(make, [7, 5, 9, 3])
    order = Order(source.chunk_rows, 3, window=2)
    whole = [galaxies.ids for galaxies in take(7, source, order, 2, 10)]
    parts = [take(7, source, order, 2, 10, workers=workers, rows=rows) for rows in (range(4), range(4, 5), range(5, 10))]
    assert [[name for part in parts for name in part[number].ids] for number in range(7)] == whole


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_any_worker_count_and_any_start_give_the_same_batches(written: Path, workers: int) -> None:
    data = open_set(written)
    order = Order(data.chunk_rows, 1, window=2)
    reference = [galaxies.ids for galaxies in take(12, data, order, 0, 9)]
    assert [galaxies.ids for galaxies in take(12, data, order, 0, 9, workers=workers)] == reference
    assert [galaxies.ids for galaxies in take(5, data, order, 7, 9, workers=workers)] == reference[7:]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_chunk_is_loaded_once_an_epoch_when_its_window_fits(make: Any, workers: int) -> None:
    source = Counting(make, [16] * 12)
    room = 6 * 16 * layout.image_bytes(source.frame)  # two windows of three chunks
    stream = batches(source, Order(source.chunk_rows, 0, window=3), 0, 16, workers=workers, cache_bytes=room)
    for _ in range(12 - 2 * workers):
        next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert max(source.loads) == 1


def test_a_window_that_does_not_fit_is_refused_at_once_and_of_finds_one_that_does(make: Any) -> None:
    source = Counting(make, [16] * 12)
    room = 3 * 16 * layout.image_bytes(source.frame)
    with pytest.raises(GalaxySDError, match="8 chunks at a time need"):
        batches(source, Order(source.chunk_rows, 0), 0, 16, cache_bytes=room)
    order = Order.of(source, 0, cache_bytes=room)
    assert order.window == 3
    assert len(take(2, source, order, 0, 16, cache_bytes=room)) == 2


def test_a_closed_stream_leaves_no_thread(written: Path) -> None:
    data = open_set(written)
    stream = batches(data, Order.of(data, 0), 0, 4, workers=3)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("galaxysd-read")]


def test_a_bad_shard_reaches_the_reader_through_the_threads(written: Path) -> None:
    (written / "data" / "shard-00002.parquet").unlink()
    data = open_set(written)
    stream = batches(data, Order.of(data, 0), 0, 52, workers=2)
    with pytest.raises(BadInput, match=r"shard-00002.parquet: missing"):
        next(stream)


@pytest.mark.parametrize("options", [{"batch": 0}, {"workers": -1}, {"start": -1}])
def test_impossible_batches_are_refused(written: Path, options: dict[str, int]) -> None:
    data = open_set(written)
    with pytest.raises(GalaxySDError, match="batches: start"):
        batches(data, Order.of(data, 0), **{"start": 0, "batch": 4, **options})


@pytest.mark.parametrize("rows", [range(0), range(-1, 2), range(2, 5), range(0, 4, 2)])
def test_parts_that_are_none_are_refused(written: Path, rows: range) -> None:
    data = open_set(written)
    with pytest.raises(GalaxySDError, match=f"rows {rows.start} to {rows.stop} of a batch of 4; a part of it is needed"):
        batches(data, Order.of(data, 0), 0, 4, rows=rows)


def test_an_order_of_another_source_is_refused(written: Path) -> None:
    with pytest.raises(GalaxySDError, match="the order is of 3 rows, the source has 52"):
        batches(open_set(written), Order([3], 0), 0, 4)


def test_reading_whole_or_in_part(written: Path, make: Any) -> None:
    data = open_set(written)
    assert len(data) == 52
    assert torch.equal(data.read().images, make(52).images)
    assert data.read(20).ids == [f"g-{i}" for i in range(20)]
    with pytest.raises(GalaxySDError, match="0 galaxies asked for"):
        data.read(0)


def test_describe_knows_a_set_by_its_bytes_and_ids(written: Path, tmp_path: Path) -> None:
    about = open_set(written).describe()
    shutil.copytree(written, tmp_path / "copy")
    assert open_set(tmp_path / "copy").describe() == about
    assert (about["n"], about["is_synthetic"]) == (52, True)
    hashed = open_set(written).hashed_ids()
    assert hashed == sorted(set(hashed))
    assert len(hashed) == 52


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda content: content[:-7], r"\d+ bytes, its record says \d+.*truncated"),
        (lambda content: content[:999] + bytes([content[999] ^ 4]) + content[1000:], "SHA-256 .* damaged"),
        (lambda content: b"", "0 bytes, its record says"),
    ],
)
def test_a_damaged_shard_is_named_and_the_others_still_load(written: Path, spoil: Callable[[bytes], bytes], words: str) -> None:
    path = written / "data" / "shard-00001.parquet"
    path.write_bytes(spoil(path.read_bytes()))
    data = open_set(written)
    assert len(data.load(0)) == 16
    with pytest.raises(BadInput, match=f"shard-00001.parquet: {words}"):
        data.load(1)


Edit = Callable[[Path, Callable[[Any], object]], None]


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("data/shard-00001.json", lambda r: r.update(file="../../etc/passwd"), r"points to '../../etc/passwd' for shard 1"),
        ("data/shard-00001.json", lambda r: r.update(file="/etc/passwd"), "only data/shard-00001.parquet is allowed"),
        ("data/shard-00001.json", lambda r: r.update(file="shard-00000.parquet"), "points to 'shard-00000.parquet'"),
        ("data/shard-00001.json", lambda r: r.update(sha256="00"), "sha256 is '00' in its record and '.*' in the manifest"),
        ("data/shard-00001.json", lambda r: r.update(rows=1 << 40), "1099511627776 rows, more than"),
        ("data/shard-00001.json", lambda r: r.update(rows=-1), "-1 rows"),
        ("data/shard-00001.json", lambda r: r.pop("sha256"), "no record of file, rows, size and sha256"),
        ("manifest.json", lambda m: m["shards"][1].update(file="../shard-00001.parquet"), "points to '../shard-00001.parquet'"),
        ("manifest.json", lambda m: m["shards"].reverse(), "points to 'shard-00003.parquet' for shard 0"),
        ("manifest.json", lambda m: m["shards"].pop(), "52 rows, its shards have 48"),
        ("manifest.json", lambda m: m["shards"][1].update(sha256="00"), "sha256 is '.*' in its record and '00' in the manifest"),
        ("manifest.json", lambda m: m.update(shards=[]), "lists no shards"),
        ("manifest.json", lambda m: m.update(shards=[7]), "shard 0 has no record"),
        ("manifest.json", lambda m: m.update(schema_version=2), "schema_version 2, this galaxysd reads 1"),
        ("set.json", lambda s: s.update(schema_version=99), "schema_version 99, this galaxysd reads 1"),
        ("set.json", lambda s: s["frame"].update(size=9), "set.json: SHA-256 .*it was changed"),
        ("set.json", lambda s: s["provenance"].pop("is_synthetic"), "real and generated cannot be told apart"),
    ],
)
def test_records_that_lie_are_refused(written: Path, edit: Edit, file: str, change: Callable[[Any], object], words: str) -> None:
    edit(written / file, change)
    with pytest.raises(BadInput, match=words):
        open_set(written).load(1)


def test_a_shard_without_its_record_does_not_exist(written: Path) -> None:
    (written / "data" / "shard-00001.json").unlink()
    with pytest.raises(BadInput, match=r"shard-00001.json: no such file"):
        open_set(written).load(1)


def test_folders_that_are_no_finished_set(tmp_path: Path, written: Path) -> None:
    with pytest.raises(BadInput, match="no such folder"):
        open_set(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match=r"not a set \(it has no set.json\)"):
        open_set(tmp_path / "empty")
    (written / "manifest.json").unlink()
    with pytest.raises(BadInput, match="an unfinished set"):
        open_set(written)
