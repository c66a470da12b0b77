"""Fair timing on a machine that is not quiet: contestants take turns, and what counts is the ratio within each round."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Ratio:
    """ours / peer over rounds: the median and the interval that holds 95 % of medians by order statistics."""

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
    # Ranks of a distribution-free interval of the median: n/2 -+ 1.96 sqrt(n)/2.
    half = 0.98 * n**0.5
    low, high = max(0, int(n / 2 - half)), min(n - 1, int(n / 2 + half))
    return Ratio(statistics.median(pairs), pairs[low], pairs[high], n)
