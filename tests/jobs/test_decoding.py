"""Reading in a process of its own: what it dies of, hangs at or refuses is one row's fault, and every other row is read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from galaxysd.data import readers
from galaxysd.errors import Unavailable
from galaxysd.jobs.decoding import Bad, Decoder, Good
from tests import poisoned


def collected(decoder: Decoder, shard: int, count: int) -> tuple[dict[int, tuple[str, torch.Tensor]], dict[int, str]]:
    good, bad = {}, {}
    for found in decoder.rows(shard, count, 64):
        if isinstance(found, Bad):
            bad[found.row] = found.reason
        else:
            assert isinstance(found, Good)
            good |= {found.first + i: (name, found.images[i]) for i, name in enumerate(found.ids)}
    return good, bad


def test_a_sound_set_is_read_whole(survey: Path):
    data = readers.open_set(survey)
    with Decoder(survey, data.frame) as decoder:
        for shard, count in enumerate(data.chunk_rows):
            good, bad = collected(decoder, shard, count)
            whole = data.load(shard)
            assert bad == {}
            assert [good[row][0] for row in range(count)] == whole.ids
            assert torch.equal(torch.stack([good[row][1] for row in range(count)]), whole.images)
        assert decoder.replaced == 0


def test_bad_deadly_endless_and_greedy_rows(survey: Path):
    data = readers.open_set(survey)
    with Decoder(survey, data.frame, poisoned.Poisoned, row_seconds=1, seconds=2) as decoder:
        good, bad = collected(decoder, 0, 100)
        assert decoder.replaced > 0
        assert set(bad) == poisoned.bad_rows(0, 100)
        assert set(good) == set(range(100)) - set(bad)
        assert bad[3] == "galaxy 3 has an image of 7 bytes"
        assert "died twice, or took more than 1 s" in bad[37]
        assert "died twice, or took more than 1 s" in bad[81]
        assert "MemoryError" in bad[64]
        whole = data.load(0)
        assert all(torch.equal(image, whole.images[row]) and name == whole.ids[row] for row, (name, image) in good.items())
        assert collected(decoder, 1, 50) == ({}, dict.fromkeys(range(50), "shard 1: not readable as Parquet"))


def test_a_failing_disk_is_no_fault_of_the_rows(survey: Path):
    with (
        Decoder(survey, readers.open_set(survey).frame, poisoned.Failing) as decoder,
        pytest.raises(Unavailable, match=r"shard 0: .*Input/output error"),
    ):
        list(decoder.rows(0, 100, 64))
