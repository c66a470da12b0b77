"""Fair timing on a machine that is not quiet: contestants take turns, and what counts is the ratio within each round."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Ratio:
    """ours / peer over rounds: the median, and the interval that holds the true one in 95 % of contests, by order statistics.

    Fewer than six rounds cannot say that much: then it is from the least to the largest.
    """

    median: float
    low: float
    high: float
    rounds: int


def interleaved(contestants: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 2) -> dict[str, list[float]]:
    """Seconds of CPU time of each contestant in each round; every round runs all of them, in turns that start with another one."""
    names = list(contestants)
    for _ in range(warmup):
        for name in names:
            contestants[name]()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            began = time.process_time()
            contestants[name]()
            seconds[name].append(time.process_time() - began)
    return seconds


def ratio(ours: list[float], peer: list[float]) -> Ratio:
    """How long ours takes of what the peer takes, paired by round."""
    pairs = sorted(a / b for a, b in zip(ours, peer, strict=True))
    n = len(pairs)
    # A round falls below the true median like a coin: with a chance of tails[k], no more than k of the n do.
    tails = itertools.accumulate(math.comb(n, k) / 2**n for k in range(n))
    beyond = max(0, sum(tail <= 0.025 for tail in tails) - 1)
    return Ratio(statistics.median(pairs), pairs[beyond], pairs[n - 1 - beyond], n)
