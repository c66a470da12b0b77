"""Batches made ahead: the same whoever reads them, off the thread that trains, in the network's layout, and errors keep their words."""

from __future__ import annotations

import contextlib
import itertools
import threading

import pytest
import torch

from galaxysd.distributed import Share
from galaxysd.errors import BadInput
from galaxysd.train.feed import MOST_READERS, Feed, placed
from tests import tiny

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
WHOLE = [Share.whole(8)]
HALVES = [Share(16, 8, 4), Share(16, 12, 4)]  # the second of two ranks, in two parts


def fed(shares: list[Share], layout: torch.memory_format = torch.contiguous_format, start: int = 0, steps: int = 6) -> list:
    with contextlib.closing(Feed(tiny.task(), tiny.Blobs(), 3, shares, layout, CPU).start(start)) as stream:
        return list(itertools.islice(stream, steps))


def test_parts_are_what_the_task_prepares_of_their_rows_in_the_order_of_the_run():
    """Of any share, from any start, by any number of readers, to the last bit."""
    whole = [parts[0] for parts in fed([Share.whole(16)])]
    for start in (0, 4):
        for step, parts in enumerate(fed(HALVES, start=start, steps=2), start):
            for share, part in zip(HALVES, parts, strict=True):
                rows = share.places()
                assert all(torch.equal(mine, all_rows[rows]) for mine, all_rows in zip(part, whole[step], strict=True))


def test_any_number_of_readers_gives_the_same(monkeypatch):
    wanted = fed(WHOLE)
    monkeypatch.setattr(Feed, "_readers", lambda feed: 3)
    for mine, theirs in zip(fed(WHOLE), wanted, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine[0], theirs[0], strict=True))


def test_the_thread_that_trains_prepares_nothing(monkeypatch):
    names, prepare = set(), tiny.DenoiseTask.prepare

    def spied(*given):
        names.add(threading.current_thread().name.rpartition("_")[0])
        return prepare(*given)

    monkeypatch.setattr(tiny.DenoiseTask, "prepare", spied)
    fed(WHOLE)
    assert names == {"galaxysd-read"}


def test_one_thread_of_arithmetic_and_many_give_the_same_bits():
    """A reader has one, and a run's bytes must not depend on who made a batch."""
    task, galaxies = tiny.task(), tiny.Blobs().load(0)
    before = torch.get_num_threads()
    made = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        made.append(task.prepare(galaxies, 5, Share.whole(16)))
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*made, strict=True))


def test_maps_lie_as_the_network_reads_them():
    for layout in (torch.channels_last, torch.contiguous_format):
        (part,) = fed(WHOLE, layout, steps=1)[0]
        assert [each.is_contiguous(memory_format=layout) for each in part if each.ndim == 4] == [True, True]


def test_an_error_of_a_reader_comes_out_in_its_words(tmp_path, monkeypatch):
    load = tiny.Blobs.load

    def damaged(source, k):
        if k == 2:
            raise BadInput("shard 2: its bytes do not match its record")
        return load(source, k)

    monkeypatch.setattr(tiny.Blobs, "load", damaged)
    with pytest.raises(BadInput, match="shard 2: its bytes do not match its record"):
        fed(WHOLE)
    with pytest.raises(BadInput, match="shard 2: its bytes do not match its record"):
        tiny.run(tmp_path / "run", "train.steps=40")


@pytest.mark.parametrize(("cores", "ranks", "readers"), [(1, 1, 1), (2, 1, 1), (4, 1, 3), (64, 1, MOST_READERS), (16, 8, 1)])
def test_readers_have_cores_of_their_own_beside_a_gpu(monkeypatch, cores: int, ranks: int, readers: int):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(cores)))
    assert Feed(tiny.task(), tiny.Blobs(), 0, WHOLE, torch.channels_last, CUDA, ranks)._readers() == readers
    assert Feed(tiny.task(), tiny.Blobs(), 0, WHOLE, torch.channels_last, CPU, ranks)._readers() == 1


@pytest.mark.gpu
def test_on_a_gpu_parts_come_through_pinned_memory():
    with contextlib.closing(Feed(tiny.task(), tiny.Blobs(), 0, WHOLE, torch.channels_last, CUDA).start(0)) as stream:
        (part,) = next(stream)
    assert all(each.is_pinned() for each in part)
    assert all(torch.equal(there.cpu(), here) for there, here in zip(placed(part, CUDA), part, strict=True))
