"""How sure a rate is: Wilson's interval, and an interval for the ratio of two rates built from two of them."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

Z95 = 1.959963984540054  # two-sided 95 % of a standard normal


@dataclass(frozen=True)
class Rate:
    """`hits` of `rows`, with its 95 % interval; nothing is known of a rate over no rows."""

    hits: int
    rows: int

    @property
    def value(self) -> float | None:
        return self.hits / self.rows if self.rows else None

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.hits, self.rows)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "rate": self.value, "interval": list(self.interval)}

    def __str__(self) -> str:
        low, high = self.interval
        return "no rows" if self.value is None else f"{self.value:.2f} [{low:.2f}, {high:.2f}] of {self.rows}"


def wilson(hits: int, rows: int, z: float = Z95) -> tuple[float, float]:
    """Wilson's interval of a rate (Wilson 1927); (0, 1) where there are no rows."""
    if rows == 0:
        return 0.0, 1.0
    rate, shrink = hits / rows, 1.0 + z * z / rows
    middle = (rate + z * z / (2 * rows)) / shrink
    half = z / shrink * math.sqrt(rate * (1 - rate) / rows + z * z / (4 * rows * rows))
    # At no hits, and at all hits, the ends are exactly 0 and 1; rounding would put them a hair off.
    return (0.0 if hits == 0 else max(0.0, middle - half)), (1.0 if hits == rows else min(1.0, middle + half))


def ratio(over: Rate, under: Rate) -> dict[str, float | None]:
    """The ratio of two rates and its 95 % interval, from both Wilson intervals (MOVER-R, Donner and Zou 2012, eq. 8).

    An end that the data do not bound is None.
    """
    p, q = over.value, under.value
    if p is None or not q:
        return {"ratio": None, "low": None, "high": None}
    (p_low, p_high), (q_low, q_high) = over.interval, under.interval
    low = _end(p, p_low, q, q_high, -1.0)
    high = _end(p, p_high, q, q_low, 1.0)
    return {"ratio": p / q, "low": low, "high": high}


def _end(p: float, p_end: float, q: float, q_end: float, sign: float) -> float | None:
    divisor = q_end * (2 * q - q_end)
    if divisor <= 0:
        return 0.0 if sign < 0 else None
    root = (p * q) ** 2 - p_end * q_end * (2 * p - p_end) * (2 * q - q_end)
    return max(0.0, (p * q + sign * math.sqrt(max(0.0, root))) / divisor)
