"""A reader of shards in which some rows are bad, kill the process that reads them, or never end: what a hostile file does to a decoder."""

from __future__ import annotations

import os
import signal
import time

from galaxysd.errors import BadInput
from galaxysd.jobs.decoding import Shards

CORRUPT, DEADLY, ENDLESS, GREEDY = range(3, 150, 10), (37,), (81,), (64,)  # rows of shard 0


class Poisoned(Shards):
    """Shard 0 is poisoned, shard 1 cannot be parsed at all."""

    def read(self, number: int, rows: range):
        if number == 1:
            raise BadInput("shard 1: not readable as Parquet")
        for row in rows:
            if row in CORRUPT:
                raise BadInput(f"galaxy {row} has an image of 7 bytes")
            if row in DEADLY:
                os.kill(os.getpid(), signal.SIGKILL)
            if row in ENDLESS:
                time.sleep(3600)
            if row in GREEDY:
                bytearray(1 << 40)
        return super().read(number, rows)


class Failing(Shards):
    """The disk gives up."""

    def read(self, number: int, rows: range):
        raise OSError(5, os.strerror(5))


def bad_rows(shard: int, count: int) -> set[int]:
    return set(range(count)) if shard == 1 else {*CORRUPT, *DEADLY, *ENDLESS, *GREEDY} & set(range(count))
