"""What a simulated galaxy is, before it is seen: the parameters that rendering and votes both start from.

Latents come from their own stream of the seed, so the same galaxy can be rendered again with other noise, or judged by other
volunteers. Galaxies are drawn in aligned blocks of `BLOCK` indices: whatever is asked for, index i is computed in slot
i % BLOCK of block i // BLOCK beside the same companions, so its bytes cannot depend on who asks for it.

A galaxy is a host, whose shares of light sum to 1 at its magnitude, and features that add light to it or dim it. The host is drawn
before its features and never asks for them, so a galaxy without its bar (`without`) is one more galaxy of the same population.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from galaxysd import seeds
from galaxysd.errors import BadInput, nearest

BLOCK = 32
ARMS, CLUMPS, STARS, FIELD, WAVES, TAILS, ARCS, CLOUDS = 5, 24, 3, 4, 6, 2, 2, 3
KINDS = ("spheroid", "disc", "edge-on", "irregular", "star")
SPHEROID, DISC, EDGE_ON, IRREGULAR, STAR = range(len(KINDS))

# Columns of the uniform table, by name and width. A new draw goes to the end: then it disturbs no galaxy that exists.
DRAWS: tuple[tuple[str, int], ...] = (
    ("kind", 1),
    ("subkind", 1),
    ("absolute", 16),
    ("apparent", 16),
    ("size", 16),
    ("seeing", 1),
    ("sky", 1),
    ("centre", 2),
    ("angle", 1),
    ("axis-ratio", 1),
    ("sersic", 1),
    ("inclination", 1),
    ("bulge", 1),
    ("bulge-shape", 4),
    ("height", 1),
    ("bar", 4),
    ("arms", 1),
    ("pitch", 2),
    ("sense", 1),
    ("arm-light", 4),
    ("arm-phase", ARMS),
    ("arm-weight", ARMS),
    ("arm-pitch", ARMS),
    ("warp", 3),
    ("lane", 6),
    ("clump-light", 1),
    ("clump-place", 3 * CLUMPS),
    ("clump-width", CLUMPS),
    ("clump-weight", CLUMPS),
    ("colour", 4),
    ("stars", 1),
    ("star-place", 2 * STARS),
    ("star-light", 2 * STARS),
    ("texture", 1),
    ("lopsided", 2),
    ("features", 6),
    ("odd", 8),
    ("ring", 4),
    ("mate", 8),
    ("tail", 5 * TAILS),
    ("arc", 3 * ARCS),
    ("cloud", 4 * CLOUDS),
    ("flocculence", 3 * WAVES + 2),
    ("arm-end", ARMS),
    ("field", 7 * FIELD),
    ("trail", 5),
    ("spikes", 3),
    ("type", 2),
)


class Draws:
    """Named uniform and normal draws for the galaxies of one block."""

    def __init__(self, seed: int, index: Tensor) -> None:
        self.index = index
        self.table = seeds.uniform(seed, "latents", index, (sum(width for _, width in DRAWS),))  # [B, draws] float64
        self.columns: dict[str, slice] = {}
        start = 0
        for name, width in DRAWS:
            self.columns[name] = slice(start, start + width)
            start += width

    def uniform(self, name: str, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Draws from (low, high): [B, width of the name]."""
        return low + (high - low) * self.table[:, self.columns[name]]

    def normal(self, name: str) -> Tensor:
        """Standard normal draws: [B, width of the name]."""
        return torch.special.ndtri(self.table[:, self.columns[name]])

    def pick(self, name: str, weights: tuple[float, ...]) -> Tensor:
        """A choice with these weights: int64 [B]."""
        edges = torch.tensor(weights, dtype=torch.float64).cumsum(0)
        return torch.searchsorted(edges / edges[-1], self.table[:, self.columns[name].start].contiguous()).clamp_max(len(weights) - 1)


@dataclass(frozen=True)
class Latents:
    """Galaxies by their parameters, one row each. Lengths in arcsec, angles in radians, shares of the host's light before dust."""

    index: Tensor  # [B] int64
    kind: Tensor  # [B] int64, into KINDS
    redshift: Tensor  # [B]
    magnitude: Tensor  # [B] r of the host, before dust
    r90: Tensor  # [B] radius of nine tenths of the Petrosian light, 2.35 half-light radii
    seeing: Tensor  # [B] FWHM of the r-band point spread function
    sky: Tensor  # [B] sky noise over that of a typical night
    centre: Tensor  # [B, 2] x and y from the middle of the stamp
    angle: Tensor  # [B] of the major axis, from +x towards +y
    core_share: Tensor  # [B] light in the Sersic component: the spheroid, the bulge, or an irregular's body
    core_radius: Tensor  # [B] half-light radius along the major axis
    core_sersic: Tensor  # [B] Sersic index
    core_ratio: Tensor  # [B] axis ratio
    core_boxy: Tensor  # [B] exponent of the ellipse: 2 is an ellipse, more is boxy
    disc_share: Tensor  # [B] light of the smooth disc
    disc_scale: Tensor  # [B] exponential scale length
    disc_height: Tensor  # [B] scale height over scale length, for discs seen edge-on
    cos_inclination: Tensor  # [B] 1 is face-on
    bar_share: Tensor  # [B] beside the host's light, as are arms, rings and all features below
    bar_length: Tensor  # [B] half-length
    bar_ratio: Tensor  # [B]
    bar_angle: Tensor  # [B] in the plane of the disc
    arm_share: Tensor  # [B]
    arm_count: Tensor  # [B] int64, 0 to ARMS
    arm_sense: Tensor  # [B] +1 or -1
    arm_pitch: Tensor  # [B, ARMS]
    arm_phase: Tensor  # [B, ARMS] angle in the disc at its scale length
    arm_weight: Tensor  # [B, ARMS], zero for arms that are not there
    arm_width: Tensor  # [B]
    arm_begin: Tensor  # [B] radius
    arm_end: Tensor  # [B, ARMS] radius
    flocculence: Tensor  # [B] share of the arms' light in patches that follow no arm
    waves: Tensor  # [B, WAVES, 3] of those patches: waves around, waves inwards, phase
    ring_share: Tensor  # [B]
    ring_radius: Tensor  # [B] in the plane of the disc
    ring_width: Tensor  # [B] standard deviation
    clump_share: Tensor  # [B] an irregular's own light, a spiral's in its arms
    clump_place: Tensor  # [B, CLUMPS, 2] x and y on the sky, from the centre
    clump_width: Tensor  # [B, CLUMPS] standard deviation
    clump_weight: Tensor  # [B, CLUMPS], sums to 1
    warp: Tensor  # [B, 3] amplitude, wave length, phase of the bend of the major axis
    texture: Tensor  # [B] standard deviation of ln brightness of the patches in young light
    lane_depth: Tensor  # [B] optical depth in V, 0 without a lane
    lane_width: Tensor  # [B] standard deviation across
    lane_length: Tensor  # [B] standard deviation along
    lane_angle: Tensor  # [B] from the major axis
    lane_offset: Tensor  # [B, 2] shift across, and bend at one lane length
    fine: Tensor  # [B] int64, 1 where a finer grid is needed: a lane, and a twin whose lane was taken
    mate_share: Tensor  # [B] of a companion in a merger
    mate_place: Tensor  # [B, 2] from the centre
    mate_radius: Tensor  # [B] half-light radius
    mate_sersic: Tensor  # [B]
    mate_ratio: Tensor  # [B]
    mate_angle: Tensor  # [B]
    tail_share: Tensor  # [B, TAILS] light torn out by tides
    tail_angle: Tensor  # [B, TAILS] where a tail leaves the galaxy
    tail_pitch: Tensor  # [B, TAILS] signed by its sense
    tail_reach: Tensor  # [B, TAILS, 2] radii between which it lies
    tail_width: Tensor  # [B, TAILS] standard deviation where it begins
    arc_share: Tensor  # [B, ARCS] the arcs of a lens, or the shells of a disturbed galaxy
    arc_radius: Tensor  # [B, ARCS]
    arc_angle: Tensor  # [B, ARCS] of its middle
    arc_extent: Tensor  # [B, ARCS] half-angle
    arc_width: Tensor  # [B, ARCS] standard deviation
    lens: Tensor  # [B] int64, 1 where the arcs are those of a lens
    cloud_share: Tensor  # [B] glowing gas beside the galaxy: what volunteers can only call "other"
    cloud_place: Tensor  # [B, CLOUDS, 2] from the centre
    cloud_width: Tensor  # [B, CLOUDS] standard deviation
    colours: Tensor  # [B, 4, 3] flux in g, r, i over that in r: core light, disc light, young light, what came from elsewhere
    star_place: Tensor  # [B, STARS, 2] x and y from the middle of the stamp
    star_flux: Tensor  # [B, STARS, 3] nanomaggies in g, r, i, zero for stars that are not there
    field_place: Tensor  # [B, FIELD, 2] of other galaxies in the stamp
    field_flux: Tensor  # [B, FIELD, 3] nanomaggies in g, r, i
    field_radius: Tensor  # [B, FIELD] standard deviation of their light
    field_ratio: Tensor  # [B, FIELD]
    field_angle: Tensor  # [B, FIELD]
    trail_flux: Tensor  # [B, 3] of a satellite, nanomaggies per arcsec in g, r, i
    trail_angle: Tensor  # [B]
    trail_offset: Tensor  # [B] from the middle of the stamp
    trail_width: Tensor  # [B] standard deviation
    spike_flux: Tensor  # [B, 3] in the diffraction spikes of a bright star, nanomaggies in g, r, i
    spike_angle: Tensor  # [B]
    spike_length: Tensor  # [B]

    def __len__(self) -> int:
        return len(self.index)

    @property
    def added(self) -> Tensor:
        """The light of the features over the host's, before dust: [B]."""
        knots = torch.where(self.kind == DISC, self.clump_share, 0.0)
        single = self.bar_share + self.arm_share + self.ring_share + knots + self.mate_share + self.cloud_share
        return single + self.tail_share.sum(1) + self.arc_share.sum(1)

    @property
    def total_magnitude(self) -> Tensor:
        """r of the host and its features, before dust: [B]."""
        return self.magnitude - 2.5 * torch.log10(1 + self.added)

    def rows(self, pick: Tensor) -> Latents:
        """The galaxies at positions `pick` (int64)."""
        return Latents(**{name: value.index_select(0, pick) for name, value in vars(self).items()})

    def to(self, device: torch.device | str) -> Latents:
        """The same galaxies on a device."""
        return Latents(**{each.name: getattr(self, each.name).to(device) for each in fields(self)})

    def scaled(self, factor: Tensor) -> Latents:
        """Every length times `factor` [B]: the galaxies seen in another unit, or from elsewhere."""

        def times(value: Tensor) -> Tensor:
            return value * factor.to(value.dtype).view(-1, *[1] * (value.dim() - 1))

        return replace(self, **{name: times(getattr(self, name)) for name in LENGTHS}, warp=torch.cat(
            [times(self.warp[:, :2]), self.warp[:, 2:]], 1), trail_flux=self.trail_flux / factor[:, None])  # fmt: skip

    @classmethod
    def joined(cls, parts: list[Latents]) -> Latents:
        """One batch of several."""
        return cls(**{each.name: torch.cat([getattr(part, each.name) for part in parts]) for each in fields(cls)})


LENGTHS = (
    "r90", "seeing", "centre", "core_radius", "disc_scale", "bar_length", "arm_width", "arm_begin", "arm_end", "ring_radius", "ring_width",
    "clump_place", "clump_width", "lane_width", "lane_length", "lane_offset", "mate_place", "mate_radius", "tail_reach", "tail_width",
    "arc_radius", "arc_width", "cloud_place", "cloud_width", "star_place", "field_place", "field_radius", "trail_offset", "trail_width",
    "spike_length",
)  # fmt: skip


def _arms_off(lat: Latents) -> dict[str, Tensor]:
    knots = torch.where(lat.kind == DISC, 0.0, lat.clump_share)
    return {"clump_share": knots} | {name: torch.zeros_like(getattr(lat, name)) for name in ("arm_share", "arm_count", "arm_weight")}


def _zero(*names: str, where: Callable[[Latents], Tensor] | None = None) -> Callable[[Latents], dict[str, Tensor]]:
    def off(lat: Latents) -> dict[str, Tensor]:
        values = {name: getattr(lat, name) for name in names}
        if where is None:
            return {name: torch.zeros_like(value) for name, value in values.items()}
        pick = where(lat)
        return {name: torch.where(pick.view(-1, *[1] * (value.dim() - 1)), 0.0, value) for name, value in values.items()}

    return off


def _merging(lat: Latents) -> Tensor:
    return lat.mate_share > 0


def _disturbed_off(lat: Latents) -> dict[str, Tensor]:
    # The tails of a merger are its own, the arcs of a lens too; a galaxy that was asked for can be all three.
    tails, shells = _zero("tail_share", where=lambda lat: ~_merging(lat)), _zero("arc_share", where=lambda lat: lat.lens == 0)
    return tails(lat) | shells(lat)


# What can be taken from a galaxy and leave one behind, and what is set when it is.
FEATURES: dict[str, Callable[[Latents], dict[str, Tensor]]] = {
    "bar": _zero("bar_share"),
    "arms": _arms_off,
    "ring": _zero("ring_share"),
    "dust-lane": _zero("lane_depth"),
    "merger": _zero("mate_share", "tail_share", where=_merging),
    "disturbed": _disturbed_off,
    "lens": _zero("arc_share", where=lambda lat: lat.lens == 1),
    "other": _zero("cloud_share"),
    "field": _zero("star_flux", "field_flux", where=lambda lat: lat.kind != STAR),
    "trail": _zero("trail_flux"),
}


def feature(name: str) -> str:
    """The name, if it is one of FEATURES."""
    if name not in FEATURES:
        raise BadInput(f"feature {name}: no such feature{nearest(name, FEATURES)}")
    return name


def without(lat: Latents, features: Iterable[str]) -> Latents:
    """The twins of these galaxies: the same but for the features named, with the same draws of sky, photons and votes."""
    for name in features:
        lat = replace(lat, **FEATURES[feature(name)](lat))
    return lat


def has(lat: Latents, name: str) -> Tensor:
    """Whether each galaxy has a feature: bool [B]."""
    off = FEATURES[feature(name)](lat)
    changed = [(value != getattr(lat, field)).reshape(len(lat), -1).any(1) for field, value in off.items()]
    return torch.stack(changed).any(0)


def blocks(index: Tensor) -> tuple[list[int], Tensor]:
    """The blocks that hold `index`, ascending, and where each index lies among their rows: int64 [B]."""
    if len(index) and int(index.min()) < 0:
        raise BadInput(f"index {int(index.min())}: galaxies are numbered from 0")
    numbers, inverse = torch.unique(index // BLOCK, return_inverse=True)
    return numbers.tolist(), inverse * BLOCK + index % BLOCK
