"""Whether generated galaxies are copies: their distance to the nearest training galaxy beside that of galaxies nobody trained on.

The distance is the rms difference of coarse asinh pixels (`features.coarse`), blind to the eight symmetries of the square and, among
the nearest few, to small shifts, rotations and scales. New noise makes a copy as far as noise makes it, which for a faint galaxy is as
far as another galaxy: so a row is also held against its own neighbours, which are that far off too unless it is a copy. By brute force
over chunks of the training set: memory does not grow with it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from galaxysd.data.transforms import symmetry
from galaxysd.errors import BadInput
from galaxysd.evaluate.alignment import aligned, centred
from galaxysd.evaluate.intervals import Rate

CHUNK = 1024
CANDIDATES = 8  # nearest training galaxies of a row that are laid on it
SUSPECT = 0.5  # a row nearer to training than this share of the nearest held-out distance is named as a suspected copy
NAMED = 20

Training = Iterable[tuple[Tensor, list[str]]]


@dataclass
class Nearest:
    """For each of N rows: rms distance, the nearest training id, and the symmetry that lays the row on it."""

    distance: Tensor  # [N]
    ids: list[str]
    code: Tensor  # [N]
    pixels: Tensor  # [N, C, S, S] of the training galaxy
    relative: Tensor | None = None  # [N] distance over the middle one of the next nearest; None where they were not looked at

    def rows(self, part: slice) -> Nearest:
        relative = None if self.relative is None else self.relative[part]
        return Nearest(self.distance[part], self.ids[part], self.code[part], self.pixels[part], relative)


@dataclass
class Candidates:
    """The k nearest training galaxies of each of N rows under the eight symmetries, nearest first."""

    distance: Tensor  # [N, k]
    number: Tensor  # [N, k] into `names`
    code: Tensor  # [N, k]
    pixels: Tensor  # [N, k, C, S, S]
    names: list[str]


def candidates(pixels: Tensor, training: Training, k: int) -> Candidates:
    """Gives the k nearest training galaxies of each row of `pixels` [N, C, S, S]; `training` yields coarse pixels and ids in chunks.

    Where training has fewer than k, the places left over are infinitely far.
    """
    rows, shape = len(pixels), pixels.shape[1:]
    best = Candidates(
        pixels.new_full((rows, k), torch.inf), torch.zeros(rows, k, dtype=torch.int64), torch.zeros(rows, k, dtype=torch.int64),
        pixels.new_zeros(rows, k, *shape), [],
    )  # fmt: skip
    turned = [symmetry(pixels, torch.full((rows,), turn)).flatten(1) for turn in range(8)]
    for chunk, names in training:
        flat = chunk.flatten(1)
        for first in range(0, rows, CHUNK):
            part = slice(first, first + CHUNK)
            apart = torch.stack([torch.cdist(mine[part], flat, compute_mode="use_mm_for_euclid_dist") for mine in turned])
            least, code = apart.min(0)
            place = least.topk(min(k, len(flat)), largest=False).indices  # [n, k]
            code = code.gather(1, place)
            # The matrix product only finds the rows; their distance is taken from the difference, or copies would not be at zero.
            mine = torch.stack(turned)[code, torch.arange(first, first + len(place))[:, None]]  # [n, k, P]
            exact = (mine - flat[place]).square().mean(2).sqrt()
            _keep(best, part, exact, place + len(best.names), code, chunk[place])
        best.names += names
    return best


def _keep(best: Candidates, part: slice, distance: Tensor, number: Tensor, code: Tensor, pixels: Tensor) -> None:
    """Puts the nearest of the old and the new candidates in order."""
    both = torch.cat((best.distance[part], distance), 1)
    order = both.sort(dim=1, stable=True).indices[:, : best.distance.shape[1]]

    def chosen(old: Tensor, new: Tensor) -> Tensor:
        return torch.cat((old, new), 1)[torch.arange(len(order))[:, None], order]

    best.distance[part], best.number[part] = chosen(best.distance[part], distance), chosen(best.number[part], number)
    best.code[part], best.pixels[part] = chosen(best.code[part], code), chosen(best.pixels[part], pixels)


def nearest(pixels: Tensor, training: Training) -> Nearest:
    """Gives the nearest training galaxy of each row of `pixels` [N, C, S, S] under the eight symmetries alone."""
    found = candidates(pixels, training, 1)
    return Nearest(
        found.distance[:, 0], [found.names[number] for number in found.number[:, 0].tolist()], found.code[:, 0], found.pixels[:, 0]
    )


def closest(pixels: Tensor, training: Training) -> Nearest:
    """As `nearest`, each of the few nearest laid on the row as well as it goes, and held against the others."""
    pixels = centred(pixels)
    found = candidates(pixels, ((centred(chunk), names) for chunk, names in training), CANDIDATES)
    rows, k = found.distance.shape
    place = torch.arange(rows).repeat_interleave(k)
    distance = found.distance.flatten().clone()
    for part in distance.isfinite().nonzero().flatten().split(CHUNK):
        turned = symmetry(pixels[place[part]], found.code.flatten()[part])
        distance[part] = aligned(turned, found.pixels.flatten(0, 1)[part])
    distance, order = distance.reshape(rows, k).sort(dim=1, stable=True)
    others = torch.where(distance[:, 1:].isfinite(), distance[:, 1:], torch.nan).nanmedian(1).values
    first = order[:, :1]
    ids = [found.names[number] for number in found.number.gather(1, first)[:, 0].tolist()]
    shown = found.pixels[torch.arange(rows), first[:, 0]]
    return Nearest(distance[:, 0], ids, found.code.gather(1, first)[:, 0], shown, distance[:, 0] / others.clamp_min(1e-12))


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


def compare(generated: Nearest, held_out: Nearest, names: list[str], classes: Sequence[str | None] = ()) -> dict[str, Any]:
    """Gives both distributions in numbers, the share of generated rows under the 1st percentile of the held-out, and suspects by id.

    More near copies than the holdout has is said only when the intervals of both shares lie apart, in distance or relative to a row's own
    neighbours. `classes` names what each generated row was asked for, where it was.
    """
    least = float(held_out.distance.min())
    share, own = _shares(generated.distance, held_out.distance)
    order = generated.distance.argsort().tolist()
    suspects = [row for row in order if float(generated.distance[row]) < SUSPECT * least]
    exceeds = share.interval[0] > own.interval[1]
    relative = None
    if generated.relative is not None and held_out.relative is not None and bool(held_out.relative.isfinite().any()):
        mine, theirs = _shares(generated.relative, held_out.relative)
        exceeds = exceeds or mine.interval[0] > theirs.interval[1]
        relative = {"closer_than_holdout_1st_percentile": mine.to_json(), "holdout": theirs.to_json()}
    return {
        "distance": "rms of coarse asinh pixels, least over 8 symmetries and small shifts, rotations and scales",
        "generated": _summary(generated.distance),
        "held_out": _summary(held_out.distance),
        "closer_than_holdout_1st_percentile": share.to_json(),
        "holdout_closer_than_its_1st_percentile": own.to_json(),
        "relative_to_next_nearest": relative,
        "by_class": _by_class(generated.distance, held_out.distance, classes),
        "exceeds_holdout": exceeds,
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


def _shares(generated: Tensor, held_out: Tensor) -> tuple[Rate, Rate]:
    """How many of both lie under the held-out 1st percentile."""
    first = held_out[held_out.isfinite()].quantile(0.01)
    return Rate(int((generated < first).sum()), len(generated)), Rate(int((held_out < first).sum()), len(held_out))


def _by_class(generated: Tensor, held_out: Tensor, classes: Sequence[str | None]) -> dict[str, Any]:
    """The share of generated rows under the held-out 1st percentile, for each class asked for: rare ones are copied first."""
    first = float(held_out.quantile(0.01))
    by: dict[str, Any] = {}
    for name in sorted({each for each in classes if each is not None}):
        of = generated[torch.tensor([each == name for each in classes])]
        by[name] = Rate(int((of < first).sum()), len(of)).to_json()
    return by


def _summary(distance: Tensor) -> dict[str, float | int]:
    ends = distance.double().quantile(torch.tensor([0.01, 0.5], dtype=torch.float64)).tolist()
    return {"percentile_1": ends[0], "median": ends[1], "least": float(distance.min()), "rows": len(distance)}
