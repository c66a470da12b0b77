"""The simulated survey: galaxies of a population by seed and index, as images with votes, and as a source to train on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from galaxysd import seeds
from galaxysd.data.galaxies import Frame, Galaxies
from galaxysd.errors import GalaxySDError
from galaxysd.simulate.latents import KINDS, Latents, blocks
from galaxysd.simulate.populations import FIELD_OF_VIEW, block, known
from galaxysd.simulate.render import BANDS, SEEING, clean, noisy, sky_rms
from galaxysd.simulate.votes import cast

SMALLEST, LARGEST = 16, 512
INDEX_LIMIT = 1 << 62  # an index is an int64
ALIGNED = {"survey": False, "tutorial": True}  # whether major axes lie along +x


def frame(preset: str, size: int) -> Frame:
    """The frame of a population's stamps: the same field of view whatever the size."""
    if not SMALLEST <= size <= LARGEST:
        raise GalaxySDError(f"size: {size} pixels; stamps are {SMALLEST} to {LARGEST} pixels on a side")
    scale = FIELD_OF_VIEW[known(preset)] / size
    return Frame("flux", size, BANDS, pixel_scale=scale, psf_fwhm=tuple(1.3 * ratio for ratio in SEEING), sky_rms=sky_rms(scale))


def simulate(preset: str, seed: int, index: seeds.Index, size: int, device: torch.device | str = "cpu", noise: bool = True) -> Galaxies:
    """Galaxies of a population: flux images, votes and numbers, the same bytes for an index whatever its companions."""
    stamps = frame(preset, size)
    rows = seeds.as_index(index)
    numbers, places = blocks(rows)
    parts = [_block(block(preset, seed, number), preset, seed, stamps, device, noise) for number in numbers]
    if not parts:
        raise GalaxySDError("index: empty; ask for at least one galaxy")
    return Galaxies.joined(parts).rows(places)


def _block(lat: Latents, preset: str, seed: int, stamps: Frame, device: torch.device | str, noise: bool) -> Galaxies:
    assert stamps.pixel_scale is not None
    counts = cast(lat, seed)
    there = lat.to(device)
    images = clean(there, stamps.size, stamps.pixel_scale, seed)
    if noise:
        images = noisy(images, there, stamps.pixel_scale, seed)
    sky = lat.sky * sky_rms(stamps.pixel_scale)[1]
    numeric = torch.stack([lat.redshift, lat.magnitude, lat.r90 / stamps.pixel_scale, lat.seeing / stamps.pixel_scale, sky], 1)
    ids = [f"sim-{preset}-{seed}-{i}" for i in lat.index.tolist()]
    return Galaxies(images, counts, numeric, lat.index, ids, extra={"kind": [KINDS[k] for k in lat.kind.tolist()]})


@dataclass
class SimulatedSource:
    """Galaxies first .. first + n of a population, rendered when they are read, in chunks."""

    preset: str
    seed: int
    first: int
    n: int
    size: int
    chunk: int = 256
    frame: Frame = field(init=False)
    chunk_rows: Sequence[int] = field(init=False)

    def __post_init__(self) -> None:
        if self.n < 1 or self.first < 0 or self.chunk < 1:
            raise GalaxySDError(f"simulated galaxies: {self.n} from number {self.first} in chunks of {self.chunk}; at least 1, 0 and 1")
        if self.first + self.n > INDEX_LIMIT:
            raise GalaxySDError(f"simulated galaxies: {self.n} from number {self.first}; numbers end at {INDEX_LIMIT}")
        self.frame = frame(self.preset, self.size)
        self.chunk_rows = [min(self.chunk, self.n - start) for start in range(0, self.n, self.chunk)]

    def load(self, k: int) -> Galaxies:
        """Chunk k; `index` is the number in the population, not in the source."""
        start = self.first + k * self.chunk
        return simulate(self.preset, self.seed, range(start, start + self.chunk_rows[k]), self.size)

    def describe(self) -> dict[str, Any]:
        return {"simulated": self.preset, "seed": self.seed, "first": self.first, "n": self.n, "size": self.size}
