"""Whether generated galaxies are copies: their distance to the nearest training galaxy beside that of galaxies nobody trained on.

The distance is the rms difference of coarse asinh pixels (`features.coarse`), blind to the eight symmetries of the square. Exact, by
brute force over chunks of the training set: memory does not grow with it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from galaxysd.data.transforms import symmetry
from galaxysd.errors import BadInput
from galaxysd.evaluate.intervals import Rate

CHUNK = 1024
SUSPECT = 0.5  # a row nearer to training than this share of the nearest held-out distance is named as a suspected copy
NAMED = 20


@dataclass
class Nearest:
    """For each of N rows: rms distance, the nearest training id, and the symmetry that lays the row on it."""

    distance: Tensor  # [N]
    ids: list[str]
    code: Tensor  # [N]


def nearest(pixels: Tensor, training: Iterable[tuple[Tensor, list[str]]]) -> Nearest:
    """Gives the nearest training galaxy of each row of `pixels` [N, C, S, S]; `training` yields coarse pixels and ids in chunks."""
    rows = len(pixels)
    best, code = pixels.new_full((rows,), torch.inf), torch.zeros(rows, dtype=torch.int64)
    ids = [""] * rows
    turned = [symmetry(pixels, torch.full((rows,), turn)).flatten(1) for turn in range(8)]
    for chunk, names in training:
        flat = chunk.flatten(1)
        for turn, mine in enumerate(turned):
            for first in range(0, rows, CHUNK):
                part = slice(first, first + CHUNK)
                place = torch.cdist(mine[part], flat, compute_mode="use_mm_for_euclid_dist").argmin(1)
                # The matrix product only finds the row; its distance is taken from the difference, or copies would not be at zero.
                exact = (mine[part] - flat[place]).square().mean(1).sqrt()
                for row in (exact < best[part]).nonzero().flatten().tolist():
                    best[first + row], code[first + row], ids[first + row] = exact[row], turn, names[int(place[row])]
    return Nearest(best, ids, code)


def among(pixels: Tensor) -> Tensor:
    """Gives how far each row of `pixels` [N, C, S, S] is from the nearest other one, as `nearest` counts it."""
    if len(pixels) < 2:
        raise BadInput(f"{len(pixels)} galaxies: at least 2 are needed to say how far apart they are")
    flat, best = pixels.flatten(1), pixels.new_full((len(pixels),), torch.inf)
    for turn in range(8):
        mine = symmetry(pixels, torch.full((len(pixels),), turn)).flatten(1)
        apart = torch.cdist(mine, flat).fill_diagonal_(torch.inf)
        best = torch.minimum(best, apart.amin(1) / math.sqrt(flat.shape[1]))
    return best


def compare(generated: Nearest, held_out: Nearest, names: list[str]) -> dict[str, Any]:
    """Gives both distributions in numbers, the share of generated rows under the 1st percentile of the held-out, and suspects by id.

    More near copies than the holdout has is said only when the intervals of both shares lie apart.
    """
    first, least = float(held_out.distance.quantile(0.01)), float(held_out.distance.min())
    share = Rate(int((generated.distance < first).sum()), len(generated.distance))
    own = Rate(int((held_out.distance < first).sum()), len(held_out.distance))
    order = generated.distance.argsort().tolist()
    suspects = [row for row in order if float(generated.distance[row]) < SUSPECT * least]
    return {
        "distance": "rms of coarse asinh pixels, least over 8 symmetries",
        "generated": _summary(generated.distance),
        "held_out": _summary(held_out.distance),
        "closer_than_holdout_1st_percentile": share.to_json(),
        "holdout_closer_than_its_1st_percentile": own.to_json(),
        "exceeds_holdout": share.interval[0] > own.interval[1],
        "suspected_copies": len(suspects),
        "nearest": [
            {
                "id": names[row],
                "train_id": generated.ids[row],
                "distance": float(generated.distance[row]),
                "symmetry": int(generated.code[row]),
            }
            for row in order[:NAMED]
        ],
    }


def _summary(distance: Tensor) -> dict[str, float | int]:
    ends = distance.double().quantile(torch.tensor([0.01, 0.5], dtype=torch.float64)).tolist()
    return {"percentile_1": ends[0], "median": ends[1], "least": float(distance.min()), "rows": len(distance)}
