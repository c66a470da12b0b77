"""Two described sets side by side: the distribution of every measured property, and their distances in every feature space."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from galaxysd.evaluate import distances, morphology
from galaxysd.evaluate.features import Described

SIDE = 8  # pixels on a side of the coarse pixels' space
SPLITS = 8
NEIGHBOURS = ("density", "coverage", "precision", "recall")
PRETRAINED = "not compared with a pretrained encoder"
MEASURED = ("magnitude", "colour", "r50", "concentration", "ellipticity")


def properties(new: Described, real: Described, seed: int, missing: dict[str, str]) -> dict[str, Any]:
    """Wasserstein-1 of every property beside its floor, medians, and how many rows could not be measured.

    A column that says nothing, because it is empty or constant in held-out rows, is named in `missing`.
    """
    table = {}
    for name in new.properties:
        mine, theirs = (of.properties[name][of.properties[name].isfinite()] for of in (new, real))
        w1 = distances.beside(distances.wasserstein, mine, theirs, seed)
        if w1 is None:
            missing[f"distance of {name}"] = f"measured in {len(mine)} generated and {len(theirs)} held-out rows: too few"
        elif w1[0].floor == 0:
            missing[f"distance of {name} over its floor"] = f"the held-out rows all have {name} {float(theirs[0]):.4g}"
        table[name] = {
            "unit": morphology.unit(name, new.frame),
            "wasserstein": w1[0].to_json() if w1 else None,
            "median": {"generated": _median(mine), "held_out": _median(theirs)},
            "not_measured": {"generated": len(new) - len(mine), "held_out": len(real) - len(theirs)},
        }
    return table


def _median(values: Tensor) -> float | None:
    return float(values.double().quantile(0.5)) if len(values) else None


def spaces(new: Described, real: Described, seed: int, missing: dict[str, str]) -> dict[str, Any]:
    """Coverage, density, precision and recall in every feature space, and Frechet and kernel distance where they describe it."""
    table: dict[str, Any] = {}
    for name, (mine, theirs, moments) in feature_spaces(new, real).items():
        whole = mine.isfinite().all(1), theirs.isfinite().all(1)
        mine, theirs = mine[whole[0]], theirs[whole[1]]
        counted = distances.beside(distances.neighbours, mine, theirs, seed, splits=SPLITS, most=distances.KNN_ROWS, worse=("low",) * 4)
        if counted is None:
            missing[f"coverage in {name}"] = f"{len(mine)} generated and {len(theirs)} held-out rows are too few"
            continue
        table[name] = {what: each.to_json() for what, each in zip(NEIGHBOURS, counted, strict=True)}
        table[name]["rows_left_out"] = {"generated": int((~whole[0]).sum()), "held_out": int((~whole[1]).sum())}
        for what, statistic in (("frechet", distances.frechet), ("kernel", distances.kernel_distance)) if moments else ():
            distance = distances.beside(statistic, mine, theirs, seed, splits=SPLITS, most=distances.KNN_ROWS)
            table[name][what] = distance[0].to_json() if distance else None
    return table


def feature_spaces(new: Described, real: Described) -> dict[str, tuple[Tensor, Tensor, bool]]:
    """Generated and real rows in each space, and whether means and covariances say enough of it; real rows set the units."""
    names = [name for name in new.properties if name.split("_")[0] in MEASURED]
    mine, theirs = (torch.stack([of.properties[name] for name in names], 1) for of in (new, real))
    found = {
        "measured properties": (*_scaled(mine, theirs), False),
        "coarse pixels": (*(adaptive_avg_pool2d(of.pixels, SIDE).flatten(1) for of in (new, real)), False),
    }
    if new.scattering is not None and real.scattering is not None:
        found["scattering coefficients"] = (*_scaled(new.scattering, real.scattering), True)
    if new.embedding is not None and real.embedding is not None:
        found["the judge's embedding"] = (new.embedding, real.embedding, True)
    return found  # type: ignore[return-value]


def _scaled(mine: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    middle = theirs.nanmedian(0).values
    spread = (theirs - middle).abs().nanmedian(0).values.clamp_min(1e-6)
    return (mine - middle) / spread, (theirs - middle) / spread
