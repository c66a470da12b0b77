"""A set as the evaluation sees it: read once in chunks, measured, judged, and the pictures let go.

The judge is anything with the method of `Judge`; galaxysd's own is `galaxysd.model.classifier`. Feature spaces that need no judge are
the measured properties, coarse asinh pixels and scattering coefficients.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from galaxysd import seeds
from galaxysd.data.galaxies import Frame, Galaxies
from galaxysd.data.schema import Schema
from galaxysd.errors import BadInput
from galaxysd.evaluate import morphology, scattering

CHUNK = 256
PIXEL_SIDE = 16  # coarse pixels on a side: shape and colour of a galaxy, little of its noise


class Judge(Protocol):
    """A morphology classifier that has not seen the rows it judges."""

    def look(self, galaxies: Galaxies, frame: Frame) -> tuple[Tensor, Tensor]:
        """Expected conditional vote fractions [B, A] and an embedding [B, E]."""

    def trained(self, ids: list[str]) -> tuple[list[str], str | None]:
        """Those of `ids` that it was trained on, and why that is not known of all of them."""


class Rows(Protocol):
    """What is read: a set on disk (`data.readers.open_set`) or a simulated source."""

    @property
    def frame(self) -> Frame: ...

    @property
    def chunk_rows(self) -> Sequence[int]: ...

    def load(self, k: int) -> Galaxies: ...


@dataclass
class InMemory:
    """Galaxies that are in memory already, as `Rows`."""

    galaxies: Galaxies
    frame: Frame

    @property
    def chunk_rows(self) -> list[int]:
        return [len(self.galaxies)]

    def load(self, k: int) -> Galaxies:
        return self.galaxies


@dataclass
class Described:
    """What is known of N galaxies once their pictures are gone."""

    frame: Frame
    ids: list[str]
    counts: Tensor  # [N, A]
    numeric: Tensor  # [N, 5]
    cond_counts: Tensor | None
    cond_numeric: Tensor | None
    properties: dict[str, Tensor]  # each [N], NaN where not measured
    pixels: Tensor  # [N, C, side, side]
    fractions: Tensor | None  # [N, A], by the judge
    embedding: Tensor | None  # [N, E], by the judge
    scattering: Tensor | None = None  # [N, F], NaN in a row that is not finite

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def schema(self) -> Schema:
        return self.frame.labels

    def rows(self, pick: Tensor) -> Described:
        """The rows at positions `pick` (int64)."""

        def take(value: Tensor | None) -> Tensor | None:
            return None if value is None else value[pick]

        return replace(
            self,
            ids=[self.ids[row] for row in pick.tolist()],
            counts=self.counts[pick],
            numeric=self.numeric[pick],
            cond_counts=take(self.cond_counts),
            cond_numeric=take(self.cond_numeric),
            properties={name: column[pick] for name, column in self.properties.items()},
            pixels=self.pixels[pick],
            fractions=take(self.fractions),
            embedding=take(self.embedding),
            scattering=take(self.scattering),
        )


def pick(chunk_rows: Sequence[int], limit: int | None, seed: int) -> list[Tensor]:
    """Which rows of each chunk are looked at: all, or a seeded sample of `limit`, since a set may be sorted."""
    total = sum(chunk_rows)
    chosen = torch.arange(total)
    if limit is not None and limit < total:
        chosen = seeds.permutation(seed, "evaluate-rows", total)[:limit].sort().values
    parts, first = [], 0
    for rows in chunk_rows:
        parts.append(chosen[(chosen >= first) & (chosen < first + rows)] - first)
        first += rows
    return parts


def stream(source: Rows, limit: int | None = None, seed: int = 0) -> Iterator[Galaxies]:
    """Gives the looked-at rows in pieces of at most CHUNK."""
    for k, rows in enumerate(pick(source.chunk_rows, limit, seed)):
        if len(rows):
            galaxies = source.load(k)
            for part in rows.split(CHUNK):
                yield galaxies.rows(part)


def describe(source: Rows, softening: Tensor, judge: Judge | None = None, limit: int | None = None, seed: int = 0) -> Described:
    """Reads, measures and judges a set."""
    frame = source.frame
    parts: list[Galaxies] = []
    properties, pixels, scattered = [], [], []
    fractions: list[Tensor] = []
    embedding: list[Tensor] = []
    for galaxies in stream(source, limit, seed):
        properties.append(morphology.measure(galaxies.images, frame))
        pixels.append(coarse(galaxies.images, frame, softening))
        scattered.append(scattering.scattering(stretched(galaxies.images, frame, softening), morphology.reference_band(frame)))
        if judge is not None:
            for found, said in zip((fractions, embedding), judge.look(galaxies, frame), strict=True):
                found.append(said.float().cpu())
        galaxies.images = galaxies.images.new_empty(len(galaxies), 0)  # not a view, which would keep the pixels; the rest is small
        parts.append(galaxies)
    if not parts:
        raise BadInput("evaluate: the set has no rows; nothing can be measured")
    every = Galaxies.joined(parts)
    return Described(
        frame,
        every.ids,
        every.counts,
        every.numeric,
        every.cond_counts,
        every.cond_numeric,
        {name: torch.cat([part[name] for part in properties]) for name in properties[0]},
        torch.cat(pixels),
        torch.cat(fractions) if judge is not None else None,
        torch.cat(embedding) if judge is not None else None,
        torch.cat(scattered),
    )


def refusal(judge: Judge, source: Rows) -> str | None:
    """Why the judge cannot look at these galaxies (other bands, another kind of image, a size it cannot take); None when it can."""
    one = next(stream(source, 1), None)
    try:
        if one is not None:
            judge.look(one, source.frame)
    except BadInput as error:
        return str(error)
    return None


def softening(source: Rows, seed: int = 0) -> Tensor:
    """The asinh softening of coarse pixels, [C]: the noise of a pixel in real rows, or a hundredth of the brightest where there is none."""
    first = next(stream(source, CHUNK, seed), None)
    if first is None:
        raise BadInput("evaluate: the held-out set has no rows; nothing can be compared")
    images = first.images.float()
    noise = morphology.local_sky(images)[1].nanmedian(0).values
    return torch.where(noise > 0, noise, 0.01 * images.abs().amax((0, 2, 3)).clamp_min(1e-12))


def coarse(images: Tensor, frame: Frame, softening: Tensor) -> Tensor:
    """Gives `images` [B, C, H, W] as asinh pixels of PIXEL_SIDE on a side (rgb: display levels 0..1): comparable without any model."""
    side = min(PIXEL_SIDE, images.shape[-1])
    return stretched(adaptive_avg_pool2d(images.float(), side), frame, softening)


def stretched(images: Tensor, frame: Frame, softening: Tensor) -> Tensor:
    """Gives `images` [B, C, H, W] as asinh pixels in units of the softening; rgb as display levels 0..1."""
    return images.float() / 255.0 if frame.kind == "rgb" else torch.asinh(images.float() / softening[:, None, None])


def comparable(one: Frame, other: Frame, names: tuple[str, str]) -> None:
    """Refuses two sets whose pixels do not mean the same thing."""
    for name in ("kind", "size", "bands", "pixel_scale", "zero_points", "unit", "schema"):
        a, b = getattr(one, name), getattr(other, name)
        same = _close(a, b) if name == "pixel_scale" else a == b
        if not same and not (one.kind == other.kind == "rgb" and name in ("pixel_scale", "zero_points", "unit")):
            raise BadInput(f"evaluate: {name} is {a} in {names[0]} and {b} in {names[1]}; compare sets of one frame")


def natural(held_out: Described, name: str) -> None:
    """Refuses a held-out set of generated galaxies: what a model drew is no measure of a model."""
    if held_out.cond_counts is not None:
        raise BadInput(
            f"evaluate: {name} holds {len(held_out)} generated galaxies (they carry requests); compare with galaxies no model drew"
        )


def independent(judge: Judge, held_out: Described, name: str, missing: dict[str, str]) -> None:
    """Refuses a judge that was trained on the galaxies it would judge; where that cannot be known, says so in `missing`."""
    found, unknown = judge.trained(held_out.ids)
    if found:
        raise BadInput(
            f"evaluate: the judge was trained on {len(found)} of {len(held_out)} galaxies of {name} ({found[0]!r} first); "
            "give held-out galaxies it has not seen"
        )
    if unknown:
        missing["whether the judge has seen held-out galaxies"] = unknown


def _close(a: float | None, b: float | None) -> bool:
    return a == b or (a is not None and b is not None and abs(a - b) <= 1e-6 * max(a, b))


def unshared(one: Iterable[str], other: Iterable[str], names: tuple[str, str]) -> None:
    """Refuses two sets that have rows in common: a row cannot be held out from itself."""
    both = sorted(set(one) & set(other))
    if both:
        raise BadInput(
            f"evaluate: {len(both)} ids are in both {names[0]} and {names[1]} ({both[0]!r} first); give sets that share no galaxy"
        )
