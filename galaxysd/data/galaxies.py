"""Galaxies in memory, and the description of a set of them: what travels between simulator, files, training and sampling."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from galaxysd.data.schema import GZ2, Schema, schema
from galaxysd.errors import BadInput, nearest

# Numeric conditions beside the votes; NaN is unknown. Lengths are in pixels of the stamp.
NUMERIC = ("redshift", "magnitude", "r90_pixels", "psf_fwhm_pixels", "sky_noise")
SIZE_LIMIT = 8192  # pixels on a side; a description that asks for more is damaged or hostile
BANDS_LIMIT = 32


@dataclass(frozen=True)
class Frame:
    """What is true of every image of a set.

    `flux` sets hold linear flux in nanomaggies per pixel (float32); `rgb` sets hold 8-bit display colour (uint8), relative only.
    """

    kind: str  # "flux" or "rgb"
    size: int  # pixels on a side
    bands: tuple[str, ...] = ("g", "r", "i")
    zero_points: tuple[float, ...] = (22.5, 22.5, 22.5)  # magnitude of one unit of flux, per band
    pixel_scale: float | None = None  # arcsec per pixel
    psf_fwhm: tuple[float, ...] | None = None  # arcsec, typical, per band
    sky_rms: tuple[float, ...] | None = None  # units of the image per pixel, typical, per band
    unit: str = "nanomaggy"
    schema: str = GZ2.name

    def __post_init__(self) -> None:
        if self.kind not in ("flux", "rgb"):
            raise BadInput(f"kind of set: {self.kind!r}{nearest(str(self.kind), ('flux', 'rgb'))}")
        if type(self.size) is not int or not 1 <= self.size <= SIZE_LIMIT:
            raise BadInput(f"size of a set's images: {self.size!r} pixels; must lie between 1 and {SIZE_LIMIT}")
        if not 1 <= len(self.bands) <= BANDS_LIMIT or any(type(band) is not str for band in self.bands):
            raise BadInput(f"bands of a set: {self.bands!r}; 1 to {BANDS_LIMIT} names are needed")
        for name in ("zero_points", "psf_fwhm", "sky_rms"):
            values = getattr(self, name)
            if values is None or (self.kind == "rgb" and name == "zero_points"):
                continue
            if (
                not isinstance(values, tuple)
                or len(values) != len(self.bands)
                or not all(isinstance(each, (int, float)) and math.isfinite(each) for each in values)
            ):
                raise BadInput(f"{name} of a set: {values!r}; one finite number for each of the {len(self.bands)} bands is needed")
        if type(self.unit) is not str or type(self.schema) is not str:
            raise BadInput(f"unit and schema of a set: {self.unit!r} and {self.schema!r}; two names are needed")
        if self.pixel_scale is not None and not (isinstance(self.pixel_scale, (int, float)) and 0 < self.pixel_scale < math.inf):
            raise BadInput(f"pixel_scale of a set: {self.pixel_scale!r}; a positive number of arcsec is needed")

    @property
    def labels(self) -> Schema:
        return schema(self.schema)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> Frame:
        if not isinstance(value, dict) or not {"kind", "size"} <= set(value):
            raise BadInput(f"set description: {str(value)[:80]!r} is no frame; kind and size are needed")
        unknown = set(value) - {each.name for each in fields(cls)}
        if unknown:
            raise BadInput(f"set description: unknown field {sorted(unknown)[0]!r}; written by a newer galaxysd?")
        kwargs: dict[str, Any] = {name: tuple(item) if isinstance(item, list) else item for name, item in value.items()}
        for name in ("bands", "zero_points"):
            if not isinstance(kwargs.get(name, ()), tuple):
                raise BadInput(f"set description: {name} {kwargs[name]!r} is not a list")
        return cls(**kwargs)


@dataclass
class Galaxies:
    """A batch of galaxies: what is missing of labels is zero votes, what is missing of numbers is NaN."""

    images: Tensor  # [B, C, H, W] float32 nanomaggies, or uint8 display colour
    counts: Tensor  # [B, A] float32 conditional counts
    numeric: Tensor  # [B, 5] float32, columns NUMERIC
    index: Tensor  # [B] int64, position in the set it came from
    ids: list[str]
    cond_counts: Tensor | None = None  # [B, A] what a generated galaxy was asked for
    cond_numeric: Tensor | None = None  # [B, 5]
    extra: dict[str, list[Any]] = field(default_factory=dict)  # further columns, by name

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, pick: Tensor) -> Galaxies:
        """The galaxies at positions `pick` (int64)."""
        chosen = pick.tolist()

        def take(value: Tensor | None) -> Tensor | None:
            return None if value is None else value[pick]

        return Galaxies(
            self.images[pick],
            self.counts[pick],
            self.numeric[pick],
            self.index[pick],
            [self.ids[i] for i in chosen],
            take(self.cond_counts),
            take(self.cond_numeric),
            {name: [column[i] for i in chosen] for name, column in self.extra.items()},
        )

    @classmethod
    def joined(cls, parts: list[Galaxies]) -> Galaxies:
        """One batch of several, which must have the same further columns."""
        for part in parts:
            if part.extra.keys() != parts[0].extra.keys():
                raise BadInput(f"galaxies with the columns {sorted(part.extra)} cannot join those with {sorted(parts[0].extra)}")

        def join(pieces: list[Tensor | None]) -> Tensor | None:
            present = [piece for piece in pieces if piece is not None]
            return torch.cat(present) if len(present) == len(pieces) else None

        return cls(
            torch.cat([part.images for part in parts]),
            torch.cat([part.counts for part in parts]),
            torch.cat([part.numeric for part in parts]),
            torch.cat([part.index for part in parts]),
            [name for part in parts for name in part.ids],
            join([part.cond_counts for part in parts]),
            join([part.cond_numeric for part in parts]),
            {name: [value for part in parts for value in part.extra[name]] for name in parts[0].extra},
        )
