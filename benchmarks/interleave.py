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


def turns(names: list[str], number: int) -> list[str]:
    """The order of a round: each starts with the next contestant, so that two of them go a b, b a, a b."""
    first = number % len(names)
    return names[first:] + names[:first]


def interleaved(contestants: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 2, repeats: int = 1) -> dict[str, list[float]]:
    """Seconds of CPU time of a call of each contestant in each round; every round runs all of them, `repeats` times in their turn."""
    names = list(contestants)
    for _ in range(warmup):
        for name in names:
            contestants[name]()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        for name in turns(names, number):
            call, began = contestants[name], time.process_time()
            for _ in range(repeats):
                call()
            seconds[name].append((time.process_time() - began) / repeats)
    return seconds


def repeats_for(call: Callable[[], object], seconds: float) -> int:
    """How many calls fill a turn of about `seconds`: a clock that is read too often is what gets measured."""
    call()
    began = time.process_time()
    call()
    return max(1, min(1000, round(seconds / max(1e-6, time.process_time() - began))))


def ratio(ours: list[float], peer: list[float]) -> Ratio:
    """How long ours takes of what the peer takes, paired by round."""
    pairs = sorted(a / b for a, b in zip(ours, peer, strict=True))
    n = len(pairs)
    # A round falls below the true median like a coin: with a chance of tails[k], no more than k of the n do.
    tails = itertools.accumulate(math.comb(n, k) / 2**n for k in range(n))
    beyond = max(0, sum(tail <= 0.025 for tail in tails) - 1)
    return Ratio(statistics.median(pairs), pairs[beyond], pairs[n - 1 - beyond], n)


def spread(ours: list[float], peer: list[float]) -> dict[str, float]:
    """How many times as long as ours the peer takes, paired by round: median, and what a fifth of the rounds lies below and above."""
    pairs = sorted(b / a for a, b in zip(ours, peer, strict=True))
    last = len(pairs) - 1
    return {"median": statistics.median(pairs), "p20": pairs[round(0.2 * last)], "p80": pairs[round(0.8 * last)]}
