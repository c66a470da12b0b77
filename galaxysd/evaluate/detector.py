"""Can it be told: how often a small detector says rightly which of two galaxies was generated. Half the time is as good as it gets.

The detector is a kernel ridge regression on scattering coefficients and measured properties, cross-validated. It proves itself first: on
held-out galaxies that were blurred, made noisier, or come from a collapsed generator; one that misses those says nothing by missing ours.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from galaxysd import seeds
from galaxysd.data.galaxies import Galaxies
from galaxysd.evaluate import faults, features
from galaxysd.evaluate.features import Described, InMemory, Rows
from galaxysd.evaluate.intervals import Rate

ROWS = 300  # a side at most: enough to be sure of an accuracy to five points
LEAST = 40  # a side, below which nothing is said
FOLDS = 5
RIDGE = 0.3
REACH = 1.0  # of the kernel, in units of the mean squared distance of two unlike rows
CLIP = 6.0  # spreads beyond which a feature says no more
PLANTED = {"blurred": faults.blurred, "white noise": faults.noisier, "collapsed": faults.collapsed}
PROVEN = 0.9


def detect(generated: Described, real: Described, source: Rows, softening: Tensor, seed: int = 0) -> dict[str, Any] | None:
    """Gives the detector's accuracy on generated against real rows, beside two real halves and the planted sets; None for few rows.

    `source` is where the real rows come from: their pictures are read again to plant in.
    """
    rows = min(len(generated), len(real), ROWS)
    if min(rows, len(real) // 2) < LEAST:
        return None
    order = seeds.permutation(seed, "detector-real", len(real))
    one, other = (space(real.rows(part)) for part in (order[: len(real) // 2], order[len(real) // 2 :]))
    mine = space(generated.rows(seeds.permutation(seed, "detector-generated", len(generated))[:rows]))
    planted = {name: rate.to_json() for name, rate in prove(source, softening, seed).items()}
    return {
        "accuracy": accuracy(mine, space(real.rows(order[:rows])), seed).to_json(),
        "two_real_halves": accuracy(one[:ROWS], other[:ROWS], seed).to_json(),
        "planted": planted,
        "proven": all(rate["rate"] >= PROVEN for rate in planted.values()),
    }


def prove(source: Rows, softening: Tensor, seed: int = 0) -> dict[str, Rate]:
    """The accuracy with which each planted set of PLANTED is told from other rows of the same source."""
    galaxies = Galaxies.joined(list(features.stream(source, 2 * ROWS, seed)))
    order = seeds.permutation(seed, "detector-planted", len(galaxies))
    one, other = galaxies.rows(order[: len(order) // 2]), galaxies.rows(order[len(order) // 2 :])

    def seen(of: Galaxies) -> Tensor:
        return space(features.describe(InMemory(of, source.frame), softening))

    plain = seen(one)
    return {name: accuracy(seen(plant(_floating(other), source.frame, seed)), plain, seed) for name, plant in PLANTED.items()}


def _floating(galaxies: Galaxies) -> Galaxies:
    return replace(galaxies, images=galaxies.images.float())


def space(of: Described) -> Tensor:
    """What the detector looks at, [N, F]: NaN where a galaxy could not be measured."""
    assert of.scattering is not None
    return torch.cat((of.scattering.double(), torch.stack(list(of.properties.values()), 1).double()), 1)


def accuracy(generated: Tensor, real: Tensor, seed: int = 0) -> Rate:
    """How often rows [N, F] of two samples are told apart by a detector that has not seen them; equally many of each are taken."""
    n = min(len(generated), len(real))
    rows, truth = torch.cat((generated[:n], real[:n])), torch.cat((torch.ones(n), -torch.ones(n))).double()
    fold = torch.empty(2 * n, dtype=torch.int64)
    for side, start in (("generated", 0), ("real", n)):
        fold[start + seeds.permutation(seed, f"detector-{side}-folds", n)] = torch.arange(n) % FOLDS
    hits = 0
    for k in range(FOLDS):
        learn, test = fold != k, fold == k
        hits += int((_learned(rows[learn], truth[learn], rows[test]).sign() == truth[test]).sum())
    return Rate(hits, 2 * n)


def _learned(rows: Tensor, truth: Tensor, new: Tensor) -> Tensor:
    """Kernel ridge regression of `truth` on `rows`, at `new`."""
    middle = rows.nanmedian(0).values
    spread = 1.4826 * (rows - middle).abs().nanmedian(0).values

    def prepared(of: Tensor) -> Tensor:
        scaled = ((of - middle) / spread.clamp_min(1e-9)).clamp(-CLIP, CLIP)
        unknown = of.isnan()  # a column of its own: what could not be measured can betray a set
        return torch.cat((torch.where(unknown, 0.0, scaled), unknown.double()), 1)

    x, at = prepared(rows), prepared(new)
    apart = torch.cdist(x, x).square()
    reach = REACH * apart.mean()

    def kernel(one: Tensor, other: Tensor) -> Tensor:
        return torch.exp(-torch.cdist(one, other).square() / reach) + one @ other.T / rows.shape[1]

    weights = torch.linalg.solve(kernel(x, x) + RIDGE * torch.eye(len(x), dtype=x.dtype), truth)
    return kernel(at, x) @ weights
