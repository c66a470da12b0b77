"""What only a simulation knows of an image: its flux without noise, which component leads each pixel, where each feature lies.

A feature's mask is where a galaxy and its twin without the feature differ before the atmosphere: outside they are equal, number for
number. The masks are kept as bits, one for each of FEATURES in their order.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from galaxysd.errors import BadInput
from galaxysd.simulate.components import COMPONENTS
from galaxysd.simulate.latents import FEATURES, STAR, Latents, has, without
from galaxysd.simulate.render import Grid, Optics, binned, grids, host_flux, light, placed

FAINTEST = 26.0  # r magnitudes per square arcsec below which a pixel belongs to no component
BOXED = 0.1  # of a feature's peak: what its box holds
SEGMENTS = ("", *COMPONENTS)  # what the numbers of a segmentation mean


@dataclass(frozen=True)
class Truth:
    """For a batch: flux as it would be without noise, and where things are, before the atmosphere spreads them."""

    flux: Tensor  # [B, bands, size, size] nanomaggies
    segmentation: Tensor  # [B, size, size] uint8, into SEGMENTS: the component that leads in r
    masks: Tensor  # [B, features, size, size] bool
    boxes: list[dict[str, list[int]]]  # x0, y0, x1, y1 in pixels, ends not included


def truth(lat: Latents, flux: Tensor, size: int, pixel: float, seed: int, optics: Optics) -> Truth:
    """The truth of galaxies rendered as `flux`; lengths and `pixel` in the same unit."""
    boxes: list[dict[str, list[int]]] = [{} for _ in range(len(lat))]
    masks = torch.zeros(len(lat), len(FEATURES), size, size, dtype=torch.bool, device=flux.device)
    segments = torch.zeros(len(lat), size, size, dtype=torch.uint8, device=flux.device)
    for rows, grid in grids(lat, size, pixel, optics):
        segments[rows] = segmentation(lat.rows(rows), grid, seed, optics.rows(rows))
        for number, name in enumerate(FEATURES):
            pick = rows[has(lat.rows(rows), name)]
            if not len(pick):
                continue
            changed = difference(lat.rows(pick), name, grid, seed, optics.rows(pick))
            masks[pick, number] = binned(changed.float(), grid) > 0
            strong = binned((changed >= BOXED * changed.amax((1, 2), keepdim=True)).float(), grid) > 0
            for row, mask in zip(pick.tolist(), strong, strict=True):
                box = bounds(mask)
                if box:
                    boxes[row][name] = box
    return Truth(flux, segments, masks, boxes)


def difference(lat: Latents, name: str, grid: Grid, seed: int, optics: Optics) -> Tensor:
    """By how much a feature changes the light on the fine grid before the atmosphere, its stars included: [B, H, W], 0 outside."""
    twin = without(lat, [name])
    found = (light(lat, seed, grid, optics) - light(twin, seed, grid, optics)).abs().sum(1)
    gone = (lat.star_flux != twin.star_flux).any(-1)  # [B, STARS]
    rows, stars = torch.nonzero(gone, as_tuple=True)
    if len(rows):
        # A star lies between four points of the grid.
        place = (lat.star_place[rows, stars] / grid.step + (grid.side - 1) / 2).floor().long()
        bright = lat.star_flux[rows, stars].sum(-1) / grid.step**2
        for step_x in (0, 1):
            for step_y in (0, 1):
                x, y = place[:, 0] + step_x, place[:, 1] + step_y
                inside = (x >= 0) & (y >= 0) & (x < grid.side) & (y < grid.side)
                found.index_put_((rows[inside], y[inside], x[inside]), bright[inside], accumulate=True)
    return found


def segmentation(lat: Latents, grid: Grid, seed: int, optics: Optics) -> Tensor:
    """Which component leads each pixel in r, 0 where the galaxy is fainter than FAINTEST: uint8 [B, size, size]."""
    size = grid.size
    best = torch.zeros(len(lat), size, size, device=lat.angle.device)
    which = torch.zeros(len(lat), size, size, dtype=torch.uint8, device=lat.angle.device)
    total = torch.zeros_like(best)
    at = placed(lat, seed, grid)
    at.along()
    for number, component in enumerate(COMPONENTS.values(), 1):
        pick = torch.nonzero(component.present(lat))[:, 0]
        if not len(pick):
            continue
        plane = binned(component.plane(at.rows(pick)), grid) / grid.over**2 * host_flux(lat.rows(pick))[:, None, None]
        total[pick] += plane
        leads = plane > best[pick]
        best[pick] = torch.where(leads, plane, best[pick])
        which[pick] = torch.where(leads, torch.full_like(which[pick], number), which[pick])
    # Lengths may be in pixels: a square arcsec is then as many units as the optics say.
    unit = (optics.pixel_arcsec / (grid.step * grid.over)) ** 2
    least = 10 ** (0.4 * (22.5 - FAINTEST)) * unit
    visible = (total > least[:, None, None]) & (lat.kind != STAR)[:, None, None]
    return torch.where(visible, which, torch.zeros_like(which))


def bounds(mask: Tensor) -> list[int] | None:
    """The smallest box around a mask [H, W]: x0, y0, x1, y1."""
    rows, columns = torch.nonzero(mask.any(1))[:, 0], torch.nonzero(mask.any(0))[:, 0]
    if not len(rows):
        return None
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]


def columns(found: Truth) -> dict[str, list[Any]]:
    """The truth as further columns of a set: raw little-endian bytes, and boxes as JSON."""
    weight = 2 ** torch.arange(found.masks.shape[1], device=found.masks.device)
    bits = (found.masks * weight[:, None, None]).sum(1).cpu().numpy().astype("<u2")
    return {
        "clean": [each.tobytes() for each in found.flux.cpu().numpy().astype("<f4")],
        "segmentation": [each.tobytes() for each in found.segmentation.cpu().numpy()],
        "feature_mask": [each.tobytes() for each in bits],
        "boxes": [json.dumps(each) for each in found.boxes],
    }


def read(columns: Mapping[str, Sequence[Any]], size: int) -> Truth:
    """The truth that `columns` wrote, of any rows of a set: its `extra`, or a table's columns by name."""

    def arrays(name: str, kind: str) -> Tensor:
        rows = [np.frombuffer(each, kind).reshape(-1, size, size) for each in columns[name]]
        return torch.from_numpy(np.stack(rows).astype(np.dtype(kind).newbyteorder("=")))

    for name in ("clean", "segmentation", "feature_mask", "boxes"):
        if name not in columns:
            raise BadInput(f"truth: the set has no column {name}; simulate it with --truth")
    places = torch.arange(len(FEATURES))[:, None, None]
    masks = (arrays("feature_mask", "<u2").to(torch.int32) >> places) & 1 == 1
    return Truth(arrays("clean", "<f4"), arrays("segmentation", "u1")[:, 0], masks, [json.loads(each) for each in columns["boxes"]])
