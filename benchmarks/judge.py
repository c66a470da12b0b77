"""`python -m benchmarks judge`: does the evaluation notice what is wrong? Every fault planted in simulated sets, and none in two halves.

For each seed a pool of simulated galaxies is dealt into a generated set, a held-out set and a training set that share no galaxy; the
generated set gets one fault at a time. A fault is noticed when the alarm of its name is raised and stands in the verdict.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from galaxysd import seeds
from galaxysd.data.galaxies import Frame, Galaxies
from galaxysd.errors import BadInput
from galaxysd.evaluate import faults, features, memorisation, spaces
from galaxysd.evaluate.command import findings
from galaxysd.evaluate.features import Described, InMemory
from galaxysd.evaluate.intervals import Rate
from galaxysd.evaluate.report import table
from galaxysd.model.classifier import Judge, load_judge

SIZE = 32
POPULATION, POOL_SEED = "survey", 606
GENERATED, HELD_OUT, TRAINING = 400, 800, 600
LEAST_IMAGES = 80  # to time distances on: what their two sides need
NONE = "none: two real halves"


@dataclass
class Pool:
    """Simulated galaxies, described once, to be dealt out."""

    galaxies: Galaxies
    frame: Frame
    softening: Tensor
    judge: Judge
    described: Described

    @classmethod
    def drawn(cls, rows: int = 3000) -> Pool:
        from galaxysd.simulate.survey import frame, simulate

        if rows < GENERATED + HELD_OUT + TRAINING:
            raise BadInput(f"judge: a pool of {rows} galaxies; at least {GENERATED + HELD_OUT + TRAINING} are needed")
        galaxies, stamps = simulate(POPULATION, POOL_SEED, range(rows), SIZE), frame(POPULATION, SIZE)
        galaxies = replace(galaxies, cond_counts=galaxies.counts, cond_numeric=galaxies.numeric, extra={})
        source, judge = InMemory(galaxies, stamps), load_judge()
        soft = features.softening(source)
        return cls(galaxies, stamps, soft, judge, features.describe(source, soft, judge))

    def seen(self, galaxies: Galaxies) -> Described:
        return features.describe(InMemory(galaxies, self.frame), self.softening, self.judge)


@dataclass
class Deal:
    """One seed's three sets, as rows of the pool."""

    pool: Pool
    seed: int

    def __post_init__(self) -> None:
        order = seeds.permutation(self.seed, "judge-deal", len(self.pool.galaxies))
        self.generated, self.held_out, self.training, _ = order.split(
            [GENERATED, HELD_OUT, TRAINING, len(order) - GENERATED - HELD_OUT - TRAINING]
        )
        self.near: memorisation.Nearest | None = None

    def nearest(self, new: Described) -> tuple[memorisation.Nearest, memorisation.Nearest]:
        """How far generated and held-out rows are from training."""
        of = self.pool.described
        chunk = of.pixels[self.training], [of.ids[row] for row in self.training.tolist()]
        if self.near is None:
            self.near = memorisation.closest(of.pixels[self.held_out], [chunk])
        return memorisation.closest(new.pixels, [chunk]), self.near

    def found(self, new: Described, copies: bool) -> dict[str, Any]:
        """What the evaluation finds in `new`; looks for copies where asked to."""
        near = self.nearest(new) if copies else None
        return findings(new, self.pool.described.rows(self.held_out), near, {}, self.seed)[0]

    def planted(self, fault: str) -> dict[str, Any]:
        """What it finds once `fault` is in the generated set."""
        good = self.pool.galaxies.rows(self.generated)
        if fault == NONE:
            return self.found(self.pool.described.rows(self.generated), copies=True)
        if fault == "copies":
            training, kinds = self.pool.galaxies.rows(self.training), list(faults.COPIES)
            bad = faults.copies(good, training, kinds[self.seed % len(kinds)], self.seed)
            return self.found(self.pool.seen(bad), copies=True)
        bad = faults.FAULTS[fault](good, self.pool.frame, self.seed)
        new = self.pool.described.rows(self.generated) if bad.images is good.images else self.pool.seen(bad)
        return self.found(replace(new, cond_counts=bad.cond_counts), copies=False)


FAULTS = (*faults.FAULTS, "copies")


def raised(found: dict[str, Any]) -> list[str]:
    return [alarm["fault"] for alarm in found["alarms"]]


def noticed(pool: Pool, which: Iterable[str], numbers: Iterable[int]) -> dict[str, dict[str, Any]]:
    """For each fault, in how many seeds its alarm was raised, and how often each other one was."""
    rows: dict[str, dict[str, Any]] = {fault: {"hits": 0, "seeds": 0, "others": {}} for fault in which}
    for seed in numbers:
        deal = Deal(pool, seed)
        for fault, row in rows.items():
            names = raised(deal.planted(fault))
            row["seeds"] += 1
            row["hits"] += (not names) if fault == NONE else (fault in names)
            for name in set(names) - {fault}:
                row["others"][name] = row["others"].get(name, 0) + 1
    return rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", type=int, default=3, help="deals of the pool, each with every fault (%(default)s)")
    parser.add_argument("--images", type=int, default=1000, help="images to time features and distances on (%(default)s)")
    parser.add_argument("--json", action="store_true")


def run(args: argparse.Namespace) -> int:
    """Prints the table of faults and the pace; 1 when a fault is missed or a good set raises an alarm."""
    if args.seeds < 1 or args.images < LEAST_IMAGES:
        raise BadInput(f"judge: --seeds {args.seeds} and --images {args.images}; at least 1 and {LEAST_IMAGES} are needed")
    pool = Pool.drawn()
    rows = noticed(pool, (*FAULTS, NONE), range(args.seeds))
    timed = pace(pool, args.images)
    if args.json:
        print(json.dumps({"faults": rows, "pace": timed}, indent=1))
    else:
        cells = [
            [fault, str(Rate(row["hits"], row["seeds"])), ", ".join(f"{n} {k}" for k, n in row["others"].items())]
            for fault, row in rows.items()
        ]
        print("\n".join(table(["planted", "noticed (for none: silent)", "other alarms"], cells)))
        seconds = f"features {timed['features']:.1f} s, distances {timed['distances']:.1f} s"
        print(f"{timed['images']} images: {seconds}, {torch.get_num_threads()} threads")
    return 0 if all(row["hits"] == row["seeds"] for row in rows.values()) else 1


def pace(pool: Pool, images: int) -> dict[str, float]:
    """Seconds that features and distances of `images` images take: half of them generated, half held out."""
    rows = torch.arange(images) % len(pool.galaxies)
    began = time.perf_counter()
    for part in rows.split(features.CHUNK):
        pool.seen(pool.galaxies.rows(part))
    between = time.perf_counter()
    half = pool.described.rows(rows[: images // 2]), pool.described.rows(rows[images // 2 :])
    spaces.properties(*half, 0, {})
    spaces.spaces(*half, 0, {})
    return {"images": images, "features": between - began, "distances": time.perf_counter() - between}
