"""What a simulated galaxy is, before it is seen: the parameters that rendering and votes both start from.

Latents come from their own stream of the seed, so the same galaxy can be rendered again with other noise, or judged by other
volunteers. Galaxies are drawn in aligned blocks of `BLOCK` indices: whatever is asked for, index i is computed in slot
i % BLOCK of block i // BLOCK beside the same companions, so its bytes cannot depend on who asks for it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from galaxysd import seeds
from galaxysd.errors import BadInput

BLOCK = 32
ARMS, CLUMPS, STARS = 5, 24, 3
KINDS = ("spheroid", "disc", "edge-on", "irregular", "dust-lane")
SPHEROID, DISC, EDGE_ON, IRREGULAR, DUST_LANE = range(len(KINDS))

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
    """Galaxies by their parameters, one row each. Lengths in arcsec, angles in radians, shares of the total light before dust."""

    index: Tensor  # [B] int64
    kind: Tensor  # [B] int64, into KINDS
    redshift: Tensor  # [B]
    magnitude: Tensor  # [B] total r, before dust
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
    bar_share: Tensor  # [B]
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
    arm_reach: Tensor  # [B, 2] where arms begin and end
    clump_share: Tensor  # [B]
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
    colours: Tensor  # [B, 3, 3] flux in g, r, i over that in r, for core light, disc light and young light
    star_place: Tensor  # [B, STARS, 2] x and y from the middle of the stamp
    star_flux: Tensor  # [B, STARS, 3] nanomaggies in g, r, i, zero for stars that are not there

    def __len__(self) -> int:
        return len(self.index)

    def rows(self, pick: Tensor) -> Latents:
        """The galaxies at positions `pick` (int64)."""
        return Latents(**{each.name: getattr(self, each.name)[pick] for each in fields(self)})

    def to(self, device: torch.device | str) -> Latents:
        """The same galaxies on a device."""
        return Latents(**{each.name: getattr(self, each.name).to(device) for each in fields(self)})

    @classmethod
    def joined(cls, parts: list[Latents]) -> Latents:
        """One batch of several."""
        return cls(**{each.name: torch.cat([getattr(part, each.name) for part in parts]) for each in fields(cls)})


def blocks(index: Tensor) -> tuple[list[int], Tensor]:
    """The blocks that hold `index`, ascending, and where each index lies among their rows: int64 [B]."""
    if len(index) and int(index.min()) < 0:
        raise BadInput(f"index {int(index.min())}: galaxies are numbered from 0")
    numbers, inverse = torch.unique(index // BLOCK, return_inverse=True)
    return numbers.tolist(), inverse * BLOCK + index % BLOCK
