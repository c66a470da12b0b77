"""How far two samples are from each other, and how far two halves of the real one are: every number has its floor beside it.

Distances: Wasserstein-1 of one property; Frechet and kernel distance of an embedding; density and coverage (Naeem et al. 2020), precision
and recall (Kynkaanniemi et al. 2019). Values and floors are taken at the same number of rows, over the same seeded splits, so that the
bias of a small sample is in both; beside them stands what a generator would get that knows five real galaxies and no more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor

from galaxysd import seeds

SPLITS = 20
LEAST = 10  # rows a side below which nothing is said
NEIGHBOURS = 5
MODES = 5  # galaxies of the deliberately collapsed generator
KNN_ROWS = 1000  # rows a side of the neighbour counts, whose work grows with the square

Statistic = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Beside:
    """A distance of generated from real rows with the same distance between two real halves: medians and 95 % ranges over splits."""

    value: float
    low: float
    high: float
    floor: float
    floor_low: float
    floor_high: float
    collapsed: float  # of a generator that repeats MODES real rows
    rows: int  # on each side of every comparison
    splits: int
    worse: Literal["high", "low"] = "high"

    @property
    def ratio(self) -> float | None:
        """Value over floor."""
        return self.value / self.floor if self.floor > 0 else None

    @property
    def beyond(self) -> bool:
        """Whether the middle value is worse than nearly all splits of the real rows (a false alarm in at most 1 of 20 equal samples)."""
        return self.value > self.floor_high if self.worse == "high" else self.value < self.floor_low

    def to_json(self) -> dict[str, Any]:
        return {
            "value": self.value,
            "range": [self.low, self.high],
            "floor": self.floor,
            "floor_range": [self.floor_low, self.floor_high],
            "collapsed": self.collapsed,
            "ratio": self.ratio,
            "beyond_floor": self.beyond,
            "rows": self.rows,
            "splits": self.splits,
        }


def halves(generated: int, real: int, seed: int, split: int, most: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of one comparison: as many generated ones and two disjoint parts of the real ones, all of one length."""
    rows = min(generated, real // 2, most or generated)
    mixed = _permutation(seed, "evaluate-halves", real, split)
    return _permutation(seed, "evaluate-generated", generated, split)[:rows], mixed[:rows], mixed[rows : 2 * rows]


@lru_cache(maxsize=256)
def _permutation(seed: int, purpose: str, n: int, split: int) -> Tensor:
    # Every property is compared over the same splits; drawing one costs more than most statistics of it.
    return seeds.permutation(seed, purpose, n, split)


def beside(
    statistic: Statistic,
    generated: Tensor,
    real: Tensor,
    seed: int = 0,
    *,
    splits: int = SPLITS,
    most: int | None = None,
    worse: tuple[Literal["high", "low"], ...] = ("high",),
) -> list[Beside] | None:
    """Gives `statistic(real half, generated)` beside `statistic(real half, other half)`, one Beside a component; None when too few rows."""
    if min(len(generated), len(real) // 2) < LEAST:
        return None
    values, floors, few, rows = [], [], [], 0
    for split in range(splits):
        mine, one, other = halves(len(generated), len(real), seed, split, most)
        rows = len(mine)
        values.append(statistic(real[one], generated[mine]).reshape(-1))
        floors.append(statistic(real[one], real[other]).reshape(-1))
        few.append(statistic(real[one], real[other][torch.arange(rows) % MODES]).reshape(-1))
    ends = torch.tensor([0.5, 0.025, 0.975], dtype=torch.float64)
    value, low, high = torch.stack(values).double().quantile(ends, dim=0).tolist()  # each one number a component
    floor, floor_low, floor_high = torch.stack(floors).double().quantile(ends, dim=0).tolist()
    fewest = torch.stack(few).double().quantile(0.5, dim=0).tolist()
    return [
        Beside(value[c], low[c], high[c], floor[c], floor_low[c], floor_high[c], fewest[c], rows, splits, side)
        for c, side in enumerate(worse)
    ]


def wasserstein(a: Tensor, b: Tensor) -> Tensor:
    """Wasserstein-1 distance of two samples of one quantity: the area between their cumulative distributions."""
    a, b = a.double().sort().values, b.double().sort().values
    steps = torch.cat((a, b)).sort().values
    below_a = torch.searchsorted(a, steps[:-1], right=True).double() / len(a)
    below_b = torch.searchsorted(b, steps[:-1], right=True).double() / len(b)
    return ((below_a - below_b).abs() * steps.diff()).sum()


def frechet(a: Tensor, b: Tensor) -> Tensor:
    """Frechet distance of the Gaussians that have the means and covariances of `a` [N, E] and `b` [M, E]."""
    a, b = a.double(), b.double()
    cov_a, cov_b = torch.atleast_2d(a.T.cov()), torch.atleast_2d(b.T.cov())
    spread, axes = torch.linalg.eigh(cov_a)
    root = axes * spread.clamp_min(0).sqrt() @ axes.T
    # tr sqrt(A B) = tr sqrt(A^1/2 B A^1/2): symmetric, so real eigenvalues; the smallest may be a rounding below zero.
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp_min(0).sqrt().sum()
    return ((a.mean(0) - b.mean(0)) ** 2).sum() + cov_a.trace() + cov_b.trace() - 2 * cross


def kernel_distance(a: Tensor, b: Tensor) -> Tensor:
    """Squared maximum mean discrepancy of `a` [N, E] and `b` [M, E] under the kernel (x.y / E + 1)^3, unbiased (Binkowski et al. 2018)."""
    a, b = a.double(), b.double()

    def kernel(one: Tensor, other: Tensor) -> Tensor:
        return (one @ other.T / a.shape[1] + 1) ** 3

    def within(of: Tensor) -> Tensor:
        table = kernel(of, of)
        return (table.sum() - table.trace()) / (len(of) * (len(of) - 1))

    return within(a) + within(b) - 2 * kernel(a, b).mean()


def neighbours(real: Tensor, generated: Tensor, k: int = NEIGHBOURS) -> Tensor:
    """Density, coverage, precision and recall [4] of `generated` [M, E] beside `real` [N, E].

    About each row lies a ball that reaches to its k-th neighbour of its own kind. Density is the mean number of real balls a generated row
    is in, over k (1 for a perfect generator, and it can exceed 1); coverage is the share of real balls that hold a generated row;
    precision the share of generated rows in a real ball; recall the share of real rows in a generated one. A ball is closed, so identical
    rows are in each other's.
    """
    real, generated = real.float(), generated.float()
    across = _apart(real, generated)
    inside = across <= _radius(real, k)[:, None]
    near = across <= _radius(generated, k)
    density = inside.sum().double() / (k * len(generated))
    return torch.stack((density, *(each.double().mean() for each in (inside.any(1), inside.any(0), near.any(1)))))


def density_coverage(real: Tensor, generated: Tensor, k: int = NEIGHBOURS) -> Tensor:
    """Density and coverage [2], as `neighbours` gives them."""
    return neighbours(real, generated, k)[:2]


def _radius(rows: Tensor, k: int) -> Tensor:
    return _apart(rows, rows).kthvalue(min(k + 1, len(rows)), dim=1).values  # a row is its own nearest


def _apart(one: Tensor, other: Tensor) -> Tensor:
    # The distances are exact, not from a matrix product: two equal rows must be at zero.
    return torch.cdist(one, other, compute_mode="donot_use_mm_for_euclid_dist")
