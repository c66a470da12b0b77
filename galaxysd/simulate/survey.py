"""The simulated survey: galaxies of a population by seed and index, as images with votes, and as a source to train on."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from galaxysd import seeds
from galaxysd.data.galaxies import Frame, Galaxies
from galaxysd.errors import BadInput, GalaxySDError
from galaxysd.simulate import recipe as recipes
from galaxysd.simulate import telescopes, truth
from galaxysd.simulate.latents import BLOCK, FEATURES, KINDS, Latents, blocks, has
from galaxysd.simulate.recipe import Recipe
from galaxysd.simulate.render import Optics, clean, noise_rms, noisy
from galaxysd.simulate.views import View, for_volunteers, from_afar, main_band, seen
from galaxysd.simulate.votes import cast

INDEX_LIMIT = 1 << 62  # an index is an int64
PLAIN = View()


def frame(preset: str | Recipe, size: int, view: View = PLAIN) -> Frame:
    """The frame of a population's stamps: the same field of view whatever the size."""
    return view.frame(recipes.of(preset).preset, size)


def simulate(
    preset: str | Recipe, seed: int, index: seeds.Index, size: int, device: torch.device | str = "cpu", noise: bool = True,
    view: View = PLAIN, with_truth: bool = False,
) -> Galaxies:  # fmt: skip
    """Galaxies of a population: flux images, votes and numbers, the same bytes for an index whatever its companions.

    `with_truth` adds what only a simulation knows, as further columns: see `truth`.
    """
    recipe, stamps = recipes.of(preset), frame(preset, size, view)
    rows = seeds.as_index(index)
    numbers, places = blocks(rows)
    if not numbers:
        raise GalaxySDError("index: empty; ask for at least one galaxy")
    if recipe.rows is not None and int(rows.max()) >= recipe.rows:
        raise BadInput(f"index {int(rows.max())}: the table of latents has {recipe.rows} rows, numbered from 0")
    side = view.side(recipe.preset) if view.pixels == "arcsec" else None
    parts = []
    for number in numbers:
        lat = recipes.block(recipe, seed, number, side)
        parts.append(_block(lat, number, recipe, seed, stamps, device, noise, view, with_truth))
    return Galaxies.joined(parts).rows(places)


def _block(
    lat: Latents, number: int, recipe: Recipe, seed: int, stamps: Frame, device: torch.device | str, noise: bool, view: View,
    with_truth: bool,
) -> Galaxies:  # fmt: skip
    lat = from_afar(lat, view)
    here = seen(lat, view, recipe.preset, stamps.size)
    counts = cast(for_volunteers(lat, view), seed)
    there, optics = here.lat.to(device), Optics(here.optics.telescope, here.optics.fwhm.to(device), here.optics.pixel_arcsec.to(device))
    images = clean(there, stamps.size, here.pixel, seed, optics)
    extra: dict[str, list[Any]] = {"kind": [KINDS[k] for k in lat.kind.tolist()]}
    if with_truth:
        extra |= truth.columns(truth.truth(there, images, stamps.size, here.pixel, seed, optics))
    if noise:
        images = noisy(images, there, optics, seed)
    scale, through = here.optics.pixel_arcsec, here.optics.telescope
    middle = main_band(through)
    share = torch.tensor([telescopes.correlated_share(each, through.pixel) for each in scale.tolist()])
    sky = share * noise_rms(lat, here.optics)[:, middle]
    r90 = here.lat.r90 / here.pixel
    numeric = torch.stack([lat.redshift, lat.total_magnitude, r90, here.optics.fwhm[:, middle] / here.pixel, sky], 1)
    rows = torch.arange(number * BLOCK, number * BLOCK + len(lat))
    ids = [f"sim-{recipe.preset}-{seed}-{i}" for i in rows.tolist()]
    if view.pixels == "r90":
        extra["pixel_scale"] = scale.tolist()
    for name in FEATURES if with_truth else ():
        extra[f"has_{name.replace('-', '_')}"] = has(lat, name).tolist()
    return Galaxies(images, counts, numeric, rows, ids, extra=extra)


@dataclass
class SimulatedSource:
    """Galaxies first .. first + n of a population, rendered when they are read, in chunks."""

    preset: str | Recipe
    seed: int
    first: int
    n: int
    size: int
    chunk: int = 256
    view: View = PLAIN
    with_truth: bool = False
    device: torch.device | str = "cpu"  # that renders; the images come back from it
    frame: Frame = field(init=False)
    chunk_rows: Sequence[int] = field(init=False)

    def __post_init__(self) -> None:
        if self.n < 1 or self.first < 0 or self.chunk < 1:
            raise GalaxySDError(f"simulated galaxies: {self.n} from number {self.first} in chunks of {self.chunk}; at least 1, 0 and 1")
        if self.first + self.n > INDEX_LIMIT:
            raise GalaxySDError(f"simulated galaxies: {self.n} from number {self.first}; numbers end at {INDEX_LIMIT}")
        self.frame, recipe = frame(self.preset, self.size, self.view), recipes.of(self.preset)
        recipes.verify(recipe, self.seed, self.first, self.n, self.view.side(recipe.preset) if self.view.pixels == "arcsec" else None)
        self.chunk_rows = [min(self.chunk, self.n - start) for start in range(0, self.n, self.chunk)]

    def load(self, k: int) -> Galaxies:
        """Chunk k; `index` is the number in the population, not in the source."""
        start = self.first + k * self.chunk
        index = range(start, start + self.chunk_rows[k])
        made = simulate(self.preset, self.seed, index, self.size, self.device, view=self.view, with_truth=self.with_truth)
        return dataclasses.replace(made, images=made.images.cpu())

    def describe(self) -> dict[str, Any]:
        about = recipes.of(self.preset).describe()
        about |= {"seed": self.seed, "first": self.first, "n": self.n, "size": self.size}
        if self.view != PLAIN:
            about["view"] = self.view.describe()
        if self.with_truth:
            about["truth"] = True
        return about
