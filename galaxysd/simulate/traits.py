"""What a person would say of a galaxy: the few numbers a population draws, a table gives, and a sweep varies.

A population draws its traits one after another through `Given`, so that what a table fixes is what later draws depend on. From traits
and the rest of a galaxy's draws `compose` makes latents.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from galaxysd.errors import BadInput, nearest
from galaxysd.simulate.latents import ARMS, DISC, EDGE_ON, FIELD, IRREGULAR, KINDS, SPHEROID, STAR, STARS


@dataclass(frozen=True)
class Traits:
    """One row a galaxy, float64 but for kind. Shares are of the host's light, lengths named R90 in units of it."""

    kind: Tensor  # [B] int64, into KINDS
    redshift: Tensor
    magnitude: Tensor  # r, of the host
    r90: Tensor  # arcsec
    axis_ratio: Tensor  # of a spheroid or an irregular
    inclination: Tensor  # degrees, of a disc: 0 is face-on, 90 edge-on
    angle: Tensor  # degrees, of the major axis from +x towards +y
    sersic: Tensor  # index of a spheroid, a bulge or an irregular's body
    bulge: Tensor  # its share, in a disc
    boxy: Tensor  # exponent of an edge-on bulge's outline: 2 is an ellipse, 3 to 5 are boxy
    red: Tensor  # 0 is a star-forming disc, 1 one that has stopped
    bar: Tensor  # share
    bar_length: Tensor  # half-length, R90
    arms: Tensor  # share
    arm_count: Tensor  # whole, 0 to 5
    pitch: Tensor  # degrees
    flocculence: Tensor  # share of the arms' light in patches
    ring: Tensor  # share
    ring_radius: Tensor  # R90
    lane: Tensor  # optical depth in V of a dust lane
    merger: Tensor  # share of a companion
    disturbed: Tensor  # share in tails and shells
    lens: Tensor  # share in arcs
    other: Tensor  # share in a glowing cloud
    knots: Tensor  # share in star-forming knots: of an irregular's own light, of a spiral beside it
    trail: Tensor  # r magnitudes per square arcsec, as if one arcsec wide, of a satellite's trail; 99 is none
    seeing: Tensor  # arcsec, FWHM in r
    sky: Tensor  # sky noise over that of a typical night
    stars: Tensor  # the field's stars expected in a stamp; STARS at most are drawn
    field: Tensor  # other galaxies expected in a stamp; FIELD at most are drawn

    def __len__(self) -> int:
        return len(self.kind)

    def rows(self, pick: Tensor) -> Traits:
        """The galaxies at positions `pick` (int64)."""
        return Traits(**{each.name: getattr(self, each.name)[pick] for each in fields(self)})


NAMES = tuple(each.name for each in fields(Traits))
# Least and largest of each, and its unit, for what a person may type.
BOUNDS: dict[str, tuple[float, float]] = {
    "kind": (0, len(KINDS) - 1),
    "redshift": (0.001, 3.0),
    "magnitude": (8.0, 30.0),
    "r90": (0.3, 600.0),
    "axis_ratio": (0.1, 1.0),
    "inclination": (0.0, 90.0),
    "angle": (-360.0, 360.0),
    "sersic": (0.5, 6.0),
    "bulge": (0.0, 0.95),
    "boxy": (1.5, 6.0),
    "red": (0.0, 1.0),
    "bar": (0.0, 1.0),
    "bar_length": (0.05, 0.8),
    "arms": (0.0, 3.0),
    "arm_count": (0, ARMS),
    "pitch": (5.0, 45.0),
    "flocculence": (0.0, 1.0),
    "ring": (0.0, 2.0),
    "ring_radius": (0.15, 1.5),
    "lane": (0.0, 10.0),
    "merger": (0.0, 2.0),
    "disturbed": (0.0, 1.0),
    "lens": (0.0, 1.0),
    "other": (0.0, 1.0),
    "knots": (0.0, 0.9),
    "trail": (15.0, 99.0),
    "seeing": (0.3, 5.0),
    "sky": (0.01, 100.0),
    "stars": (0.0, STARS),
    "field": (0.0, FIELD),
}
# Which kinds of host can have a feature: one that is given with another kind is a contradiction.
HOSTS: dict[str, tuple[int, ...]] = {
    "bar": (DISC,),
    "arms": (DISC,),
    "arm_count": (DISC,),
    "ring": (DISC,),
    "lane": (SPHEROID, EDGE_ON),
    "merger": (SPHEROID, DISC, EDGE_ON, IRREGULAR),
    "disturbed": (SPHEROID, DISC, EDGE_ON, IRREGULAR),
    "lens": (SPHEROID, DISC, EDGE_ON),
    "other": (SPHEROID, DISC, EDGE_ON, IRREGULAR),
    "knots": (DISC, IRREGULAR),
}
EDGE_ON_FROM = 70.0  # degrees: a disc that is less inclined is not seen from its side
CIGAR = 0.4  # axis ratio below which a spheroid is one


def known(name: str) -> str:
    """The trait of this name."""
    if name not in NAMES:
        raise BadInput(f"latent {name}: no such latent of a galaxy{nearest(name, NAMES)}")
    return name


def possible(kind: Tensor, feature: str) -> Tensor:
    """Whether a host of this kind can have the feature: bool [B]."""
    return torch.isin(kind, torch.tensor(HOSTS[feature]))


class Given:
    """Traits fixed from outside, NaN where a row leaves one to the population; what it is called with is what was drawn."""

    def __init__(self, values: Mapping[str, Tensor] | None = None) -> None:
        self.values = dict(values or {})

    def rows(self, pick: Tensor) -> Given:
        """What is given to the galaxies at positions `pick` (int64)."""
        return Given({name: values[pick] for name, values in self.values.items()})

    def asked(self, name: str) -> Tensor | bool:
        """Whether a feature is given, and not as none: bool [B], or False where no row gives it."""
        return self.values[name] > 0 if name in self.values else False

    def __call__(self, name: str, drawn: Tensor) -> Tensor:
        if name not in self.values:
            return drawn
        mine = self.values[name]
        return torch.where(mine.isnan(), drawn.double(), mine).to(drawn.dtype)


def column(name: str, values: Any, rows: int | None = None) -> Tensor:
    """A trait's values as a person gives them, checked: float64 [rows]; kinds by name or number, None and NaN leave it open."""
    known(name)
    listed = list(np.atleast_1d(np.asarray(values, dtype=object)))
    if rows is not None and len(listed) != rows:
        raise BadInput(f"latent {name}: {len(listed)} values for {rows} galaxies; give one each")
    numbers = torch.tensor([_number(name, each) for each in listed], dtype=torch.float64)
    low, high = BOUNDS[name]
    wrong = (~numbers.isnan() & ~((numbers >= low) & (numbers <= high))).nonzero().flatten()
    if len(wrong):
        row = int(wrong[0])
        raise BadInput(f"latent {name}: {float(numbers[row]):g} in row {row}; it lies between {low:g} and {high:g}")
    if name in ("arm_count", "kind") and bool((numbers[~numbers.isnan()] % 1 != 0).any()):
        raise BadInput(f"latent {name}: must be whole")
    return numbers


def _number(name: str, value: Any) -> float:
    if value is None:
        return math.nan
    if name == "kind" and isinstance(value, str) and not value.isdecimal():
        if value not in KINDS:
            raise BadInput(f"latent kind: {value!r}{nearest(value, KINDS)}")
        return float(KINDS.index(value))
    try:
        return float(value)
    except (TypeError, ValueError):
        raise BadInput(f"latent {name}: {value!r} is not a number") from None


ODDITIES = ("merger", "disturbed", "lens", "other")  # of which chance gives a galaxy one at most


def check(traits: Traits, given: Given, rows: Tensor, field_of_view: float | None = None) -> None:
    """Refuses what contradicts itself among the traits given, and a size given that goes beyond the stamp; `rows` are their numbers."""
    for name in (name for name in HOSTS if name in given.values):
        asked = given.values[name] > 0
        impossible = (asked & ~possible(traits.kind, name)).nonzero().flatten()
        if len(impossible):
            row = int(impossible[0])
            kind, ratio = int(traits.kind[row]), float(traits.axis_ratio[row])
            host = "cigar" if kind == SPHEROID and ratio < CIGAR else KINDS[kind]
            hosts = " or ".join(KINDS[each] for each in HOSTS[name])
            raise BadInput(
                f"latent {name}: {float(given.values[name][row]):g} in row {int(rows[row])}, whose kind is {host}; "
                f"only a {hosts} can have it, so give kind={KINDS[HOSTS[name][0]]} or {name}=0"
            )
    if "arms" in given.values or "arm_count" in given.values:
        odd = ((traits.arms > 0) != (traits.arm_count > 0)).nonzero().flatten()
        if len(odd):
            row = int(odd[0])
            raise BadInput(
                f"latent arms: {float(traits.arms[row]):g} of the light in {int(traits.arm_count[row])} arms, row {int(rows[row])}; "
                "give both or none"
            )
    if "inclination" in given.values:
        flat = (given.values["inclination"] < EDGE_ON_FROM) & (traits.kind == EDGE_ON)
        if bool(flat.any()):
            row = int(flat.nonzero()[0])
            raise BadInput(
                f"latent inclination: {float(traits.inclination[row]):g} degrees in row {int(rows[row])}, whose kind is edge-on; "
                f"give kind=disc, or at least {EDGE_ON_FROM:g} degrees"
            )
    if field_of_view is not None and "r90" in given.values:
        large = (traits.r90 > field_of_view / 2) & (traits.kind != STAR)
        if bool(large.any()):
            row = int(large.nonzero()[0])
            raise BadInput(
                f"latent r90: {float(traits.r90[row]):g} arcsec in row {int(rows[row])} lies beyond a stamp of {field_of_view:g} arcsec on "
                f"a side; give a field of at least {2 * float(traits.r90[row]):g} arcsec, or pixels by R90"
            )
