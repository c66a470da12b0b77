"""Which galaxies: a population, what a table or a sweep fixes of them, and the features their twins go without."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from galaxysd import seeds
from galaxysd.errors import BadInput, nearest
from galaxysd.simulate import populations, traits
from galaxysd.simulate.compose import compose
from galaxysd.simulate.latents import BLOCK, Draws, Latents, blocks, feature, without
from galaxysd.simulate.traits import Given, Traits

POSES = ("aligned", "random")


@dataclass(frozen=True)
class Recipe:
    """Galaxies 0, 1, 2 and so on of a population, by seed."""

    preset: str = "survey"
    pose: str | None = None  # "aligned" or "random" position angles; None leaves it to the population
    given: tuple[tuple[str, tuple[float, ...]], ...] = ()  # traits fixed by a table, a value for each of its rows; NaN where left open
    fixed: tuple[tuple[str, float], ...] = ()  # traits that are the same for every galaxy
    same: int | None = None  # every row is this galaxy of the population, but for what is given: a sweep
    without: tuple[str, ...] = ()  # features taken away

    def __post_init__(self) -> None:
        populations.known(self.preset)
        if self.pose is not None and self.pose not in POSES:
            raise BadInput(f"pose: {self.pose!r}{nearest(self.pose, POSES)}; position angles are aligned or random")
        for name in self.without:
            feature(name)
        lengths = {len(values) for _, values in self.given}
        if len(lengths) > 1:
            raise BadInput(f"latents: columns of {min(lengths)} and of {max(lengths)} rows; give one value a galaxy in each")
        for name in {name for name, _ in self.given} & {name for name, _ in self.fixed}:
            raise BadInput(f"latent {name}: fixed for every galaxy and given for each; drop one of the two")
        if lengths == {0}:
            raise BadInput("latents: the table has no rows; a population needs at least one galaxy")

    @property
    def rows(self) -> int | None:
        """How many galaxies there are, None for any number."""
        return len(self.given[0][1]) if self.given else None

    def describe(self) -> dict[str, Any]:
        """What a set must know of it; a table by its digest, for a table can be as long as the set."""
        found: dict[str, Any] = {"simulated": self.preset}
        if self.pose is not None:
            found["pose"] = self.pose
        if self.given:
            digest = hashlib.sha256(repr(self.given).encode()).hexdigest()
            found["latents"] = {"columns": [name for name, _ in self.given], "rows": self.rows, "sha256": digest}
        if self.fixed:
            found["fixed"] = dict(self.fixed)
        if self.same is not None:
            found["same_galaxy"] = self.same
        if self.without:
            found["without"] = list(self.without)
        return found


def tabled(preset: str, columns: dict[str, Any], **more: Any) -> Recipe:
    """A population whose galaxy i has the traits of row i of a table, and what the table leaves open from the preset."""
    if not columns:
        raise BadInput("latents: the table has no columns; name at least one latent")
    given = tuple((traits.known(name), tuple(traits.column(name, values).tolist())) for name, values in columns.items())
    return Recipe(preset, given=given, **more)


def sweep(preset: str, galaxy: int, name: str, low: float, high: float, n: int, **more: Any) -> Recipe:
    """One galaxy of a population n times, one of its traits from `low` to `high`, all else held in place."""
    if n < 2:
        raise BadInput(f"sweep of {name}: {n} galaxies; a sweep has at least 2")
    values = traits.column(name, torch.linspace(low, high, n, dtype=torch.float64).tolist())
    return Recipe(preset, given=((name, tuple(values.tolist())),), same=galaxy, **more)


def fixed(settings: dict[str, Any]) -> tuple[tuple[str, float], ...]:
    """Traits that are the same for every galaxy, checked."""
    return tuple((traits.known(name), float(traits.column(name, [value])[0])) for name, value in settings.items())


def of(preset: str | Recipe) -> Recipe:
    """A recipe, or the preset of this name."""
    return preset if isinstance(preset, Recipe) else Recipe(preset)


def traits_of(recipe: Recipe, d: Draws, rows: Tensor, field_of_view: float | None = None) -> Traits:
    """The traits of rows [B] int64 of a recipe, from their draws."""
    values = {name: torch.full((len(rows),), value, dtype=torch.float64) for name, value in recipe.fixed}
    for name, column in recipe.given:
        table = torch.tensor(column, dtype=torch.float64)
        inside = rows < len(table)
        values[name] = torch.where(inside, table[rows.clamp_max(len(table) - 1)], torch.nan)
    given = Given(values)
    drawn = populations.POPULATIONS[recipe.preset](d, given)
    if recipe.pose == "aligned":
        drawn = replace(drawn, angle=given("angle", populations.aligned(d)))
    elif recipe.pose == "random":
        drawn = replace(drawn, angle=given("angle", 360 * d.uniform("angle")[:, 0]))
    # Rows of a block beyond the table are drawn for company and never shown: nothing is said of them.
    shown = torch.nonzero(rows < recipe.rows)[:, 0] if recipe.rows is not None else torch.arange(len(rows))
    traits.check(drawn.rows(shown), given.rows(shown), rows[shown], field_of_view)
    return drawn


def block(preset: str | Recipe, seed: int, number: int, field_of_view: float | None = None) -> Latents:
    """The galaxies of one whole block of rows."""
    recipe = of(preset)
    rows = torch.arange(number * BLOCK, (number + 1) * BLOCK)
    d = Draws(seed, rows if recipe.same is None else torch.full_like(rows, recipe.same))
    return without(compose(d, traits_of(recipe, d, rows, field_of_view)), recipe.without)


def verify(recipe: Recipe, seed: int, first: int, n: int, field_of_view: float | None) -> None:
    """Refuses, before anything is rendered, a table whose rows contradict themselves; of what is fixed for all it tries the first block."""
    if not recipe.given and not recipe.fixed:
        return
    if recipe.rows is not None and first + n > recipe.rows:
        raise BadInput(f"latents: galaxies {first} to {first + n - 1} of a table of {recipe.rows} rows, numbered from 0; ask for fewer")
    last = first + n - 1 if recipe.given else first
    for number in range(first // BLOCK, last // BLOCK + 1):
        block(recipe, seed, number, field_of_view)


def draw(preset: str | Recipe, seed: int, index: seeds.Index) -> Latents:
    """The latents of any galaxies of a population, on the CPU."""
    numbers, rows = blocks(seeds.as_index(index))
    return Latents.joined([block(preset, seed, number) for number in numbers]).rows(rows)
