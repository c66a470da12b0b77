"""The shard function of a sample: (plan, number) -> table, the same bytes on any machine of the planned class."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from galaxysd import checkpoint, files
from galaxysd.data import layout
from galaxysd.data.galaxies import NUMERIC, Frame, Galaxies
from galaxysd.errors import BadInput
from galaxysd.jobs import plan as plans
from galaxysd.jobs.conditions import Table
from galaxysd.jobs.plan import Plan
from galaxysd.sample.generate import Generator, Settings

# Called after each unit with the galaxies it held; raises `Stopped` when the work is to end.
GoOn = Callable[[int], None]


@dataclass(frozen=True)
class Made:
    """A shard ready to be committed, and of a scan the rows that could not be read."""

    table: pa.Table
    bad: dict[str, Any] | None = None


def generator_of(folder: Path, plan: Plan) -> Generator:
    """The planned model, verified, with its guide."""

    def load(name: str, expected: files.Digest) -> Generator:
        path = plans.verified(folder, name, expected)
        return Generator(checkpoint.read(path, expected), plan.precision or "auto", plan.device)

    return load(plans.MODEL, plan.model).guided_by(None if plan.guide is None else load(plans.GUIDE, plan.guide))


def settings_of(plan: Plan) -> Settings:
    assert plan.settings is not None  # of every sample
    return Settings(**{**plan.settings, "interval": tuple(plan.settings["interval"])})


def described_name(store: str) -> str:
    """Where a sample is described: only whole galaxies make a set."""
    return plans.SET if store == "pixels" else "recipe.json"


class Recipe:
    """What a sample's shards say of their galaxies, known without drawing any."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        if plan.kind != "sample" or plan.described is None or plan.seed is None or plan.store not in plans.STORES:
            raise BadInput(f"{folder}: the plan of a {plan.kind}, a sample is needed here")
        self.folder, self.plan, self.seed = folder, plan, plan.seed
        self.about = files.read_json(plans.verified(folder, described_name(plan.store), plan.described))
        self.frame = Frame.from_json(self.about["frame"])
        self.conditions = Table(folder / plans.CONDITIONS, self.frame.labels)

    def ids(self, index: Tensor) -> list[str]:
        return [f"gen-{self.plan.model.sha256[:12]}-{self.seed}-{i}" for i in index.tolist()]

    def labels(self, span: range) -> Galaxies:
        """The galaxies of a span without their images."""
        index, asked = torch.arange(span.start, span.stop), self.conditions.span(span)
        n = len(index)
        unknown = torch.full((n, len(NUMERIC)), float("nan"))
        return Galaxies(torch.empty(n, 0), torch.zeros_like(asked.counts), unknown, index, self.ids(index), asked.counts, asked.numeric)

    def table(self, galaxies: Galaxies, where: str, pixels: bool) -> pa.Table:
        return layout.encode(galaxies, self.frame, self.about["provenance"], where, pixels)


class Sampler:
    """A sample opened for work."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.recipe, self.plan = Recipe(folder, plan), plan
        self._generator: Generator | None = None

    @property
    def generator(self) -> Generator:
        """The model: loaded when the first galaxy is drawn, which a recipe's never is."""
        if self._generator is None:
            self._generator = generator_of(self.recipe.folder, self.plan)
        return self._generator

    def draw(self, index: Tensor) -> Iterator[Galaxies]:
        """Galaxies `index` [B], unit by unit."""
        asked = self.recipe.conditions.at(index)
        return self.generator.draw(asked, index, self.recipe.seed, settings_of(self.plan), self.plan.unit, 1)

    def make(self, number: int, go_on: GoOn) -> Made:
        """Shard `number`."""
        span, where = self.plan.span(number), f"{self.recipe.folder}: shard {number}"
        if self.plan.store == "recipe":
            galaxies = self.recipe.labels(span)
            go_on(len(galaxies))
            return Made(self.recipe.table(galaxies, where, pixels=False))
        parts: list[Galaxies] = []
        for part in self.draw(torch.arange(span.start, span.stop)):
            parts.append(part)
            go_on(len(part))
        return Made(self.recipe.table(Galaxies.joined(parts), where, pixels=True))


class Drawn:
    """A sample as a source that draws on demand: what a recipe is read back as (`galaxysd.data.readers.batches` takes it)."""

    def __init__(self, folder: Path) -> None:
        plan = plans.read(folder)
        plans.check_environment(plan, folder)
        self._sampler = Sampler(Path(folder), plan)
        self.frame = self._sampler.recipe.frame
        self.chunk_rows = [len(plan.span(number)) for number in range(plan.shards)]

    def load(self, k: int) -> Galaxies:
        """The galaxies of shard k, drawn now."""
        span = self._sampler.plan.span(k)
        return Galaxies.joined(list(self._sampler.draw(torch.arange(span.start, span.stop))))

    def describe(self) -> dict[str, Any]:
        return {"plan": self._sampler.plan.sha256, "n": sum(self.chunk_rows), "is_synthetic": True}
