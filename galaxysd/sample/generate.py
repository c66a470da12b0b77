"""A trained model ready to draw from, and the fixed units of work that make image i the same bytes every time.

Galaxy i always stands at slot i mod U of unit i div U, whatever else is asked for: absent neighbours are padded. A unit is computed
by one thread, so neither the batch size nor the number of workers nor memory nor a restart can change a byte; its noise is keyed by
(seed, i).
"""

from __future__ import annotations

import copy
import math
import platform
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from galaxysd import checkpoint, seeds
from galaxysd.config import SampleConfig
from galaxysd.data import conditions
from galaxysd.data.conditions import Conditions
from galaxysd.data.galaxies import NUMERIC, Galaxies
from galaxysd.diffusion.captured import Captured
from galaxysd.diffusion.denoiser import Denoiser, frozen, resolve_device, resolve_dtype, resolve_layout
from galaxysd.diffusion.guidance import Evaluate, Guided
from galaxysd.diffusion.samplers import SAMPLERS, levels, solve
from galaxysd.errors import BadInput, GalaxySDError, nearest
from galaxysd.model.described import described
from galaxysd.model.unet import UNet
from galaxysd.sample.batch import GalaxyBatch
from galaxysd.sample.requests import requested
from galaxysd.sample.units import together

PRECISIONS = {torch.bfloat16: "bf16", torch.float32: "fp32"}
SAMPLED = ("sigma_data", "sigma_min", "sigma_max", "rho")  # of the diffusion settings, those that drawing depends on


@dataclass(frozen=True)
class Settings:
    """How to draw: part of an image's identity, with model, condition, seed and index."""

    sampler: str
    steps: int
    guidance: float
    interval: tuple[float, float]

    @classmethod
    def of(cls, config: SampleConfig, **changes: Any) -> Settings:
        """The config's defaults, with what is not None of `changes`."""
        chosen = cls(config.sampler, config.steps, config.guidance, config.interval)
        chosen = replace(chosen, **{name: value for name, value in changes.items() if value is not None})
        if chosen.sampler not in SAMPLERS:
            raise GalaxySDError(f"sampler {chosen.sampler}: no such sampler{nearest(chosen.sampler, SAMPLERS)}")
        if chosen.steps < 1:
            raise GalaxySDError(f"steps: {chosen.steps}; must be at least 1")
        if not all(math.isfinite(each) for each in (chosen.guidance, *chosen.interval)):
            raise GalaxySDError(f"guidance: {chosen.guidance} between noise levels {chosen.interval}; must be finite numbers")
        return chosen


class Generator:
    """A model to draw galaxies from. Make one with `galaxysd.load(MODEL)`."""

    def __init__(self, source: checkpoint.Checkpoint, dtype: str = "auto", device: str | torch.device = "cpu") -> None:
        found = described(source, "denoiser")
        self.path, self.digest, self.trained_on = source.path, source.digest, source.about["trained_on"]
        self.config, self.schema, self.frame, self.stretch = found.config, found.labels, found.frame, found.stretch
        self.device = resolve_device(device)
        with torch.device("meta"):
            net = UNet(self.config.model, conditions.width(self.schema))
        checkpoint.check_shapes(net, source.path)
        net = UNet(self.config.model, conditions.width(self.schema))
        checkpoint.fill(net, source.tensors, source.path)
        resolved = resolve_dtype(dtype, self.device)
        model = Denoiser(net, self.config.diffusion, resolved)
        model.layout = resolve_layout("auto", self.device, resolved)
        self.denoiser = frozen(model).to(self.device)
        self.evaluate: Evaluate = Captured(self.denoiser) if self.device.type == "cuda" else self.denoiser
        self.guide: Generator | None = None
        self.fits: int | None = None  # units at once, where memory has run out with more

    def guided_by(self, guide: Generator | str | Path | None) -> Self:
        """The same model, led away from `guide`, a smaller or earlier one, instead of from its own answer to no condition.

        Both answer to the same features and noise levels in the same model space, so what these follow from must agree. The laws of
        noise they were trained under may differ. A guide given by where it lies is loaded in this one's precision, onto its device.
        """
        if guide is not None and not isinstance(guide, Generator):
            guide = load(guide, dtype=PRECISIONS[self.denoiser.dtype], device=self.device)
        if guide is not None:
            guidable(self, guide)
        other = copy.copy(self)
        other.guide = guide
        return other

    def provenance(self, settings: Settings, seed: int) -> dict[str, Any]:
        """What, with a condition and an index, names an image: model, sampler, guidance, guide, precision, seed, and what drew it."""
        guide = {} if self.guide is None else {"guide": self.guide.config.name, "guide_sha256": self.guide.digest.sha256}
        return {
            "made_by": "galaxysd sample",
            "model": self.config.name,
            "model_sha256": self.digest.sha256,
            **guide,
            "sampler": settings.sampler,
            "steps": settings.steps,
            "guidance": settings.guidance,
            "interval": list(settings.interval),
            "precision": str(self.denoiser.dtype).removeprefix("torch."),
            "unit": self.config.sample.unit,
            "seed": seed,
            "torch": torch.__version__,
            "instruction_set": torch.backends.cpu.get_cpu_capability() if self.device.type == "cpu" else torch.cuda.get_device_name(),
            "machine": platform.machine(),
        }

    def draw(
        self, asked: Conditions, index: Tensor, seed: int, settings: Settings, batch: int = 64, workers: int | None = None
    ) -> Iterator[Galaxies]:
        """Draws galaxies `index` [B] under the rows of `asked`, about `batch` at a time; `workers` threads draw units side by side.

        Galaxies come unit by unit: in the order asked for where `index` rises.
        """
        for rows, images in self._drawn(asked, index, seed, settings, batch, workers):
            yield self._galaxies(images, asked.rows(rows), index[rows], seed)

    def _drawn(
        self, asked: Conditions, index: Tensor, seed: int, settings: Settings, batch: int, workers: int | None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Which rows of `asked` were drawn, and their images."""
        if not len(index):
            raise GalaxySDError("n: 0 galaxies asked for; give at least 1")
        size = self.config.sample.unit
        features = conditions.encode(asked, self.schema)
        # A unit has one slot for an index: one that is asked for again, say under another condition, travels in another pass.
        units: dict[tuple[int, int], list[int]] = {}
        passes: Counter[int] = Counter()
        for row, i in enumerate(index.tolist()):
            units.setdefault((i // size, passes[i]), []).append(row)
            passes[i] += 1
        numbers = list(units)
        at_once = max(1, batch // size)
        threads = torch.get_num_threads()
        # Threads of a GPU would wait for one another: its units go one after the other unless told otherwise.
        crew = workers or (threads if self.device.type == "cpu" else 1)
        crew = crew if self.fits is None else min(crew, self.fits)

        def drawn(unit: tuple[int, int]) -> Tensor:
            return self._unit(unit[0], units[unit], index, features, seed, settings)

        def name(unit: tuple[int, int]) -> str:
            return f"{self.path}: unit {unit[0]} (galaxies {unit[0] * size} to {(unit[0] + 1) * size - 1})"

        torch.set_num_threads(1)
        try:
            for first in range(0, len(numbers), at_once):
                group = numbers[first : first + at_once]
                images, fit = together(drawn, group, crew, name)
                if fit < crew:
                    crew = self.fits = fit
                yield torch.tensor([row for unit in group for row in units[unit]]), torch.cat(images)
        finally:
            torch.set_num_threads(threads)

    @torch.inference_mode()
    def _unit(self, unit: int, rows: list[int], index: Tensor, features: Tensor, seed: int, settings: Settings) -> Tensor:
        size, frame = self.config.sample.unit, self.frame
        slots = index[rows] - unit * size
        padded = features.new_zeros(size, features.shape[1]).index_copy_(0, slots, features[rows]).to(self.device)
        sigmas = levels(self.config.diffusion, settings.steps)
        shape = (len(frame.bands), frame.size, frame.size)
        noise = seeds.normal(seed, "sample", range(unit * size, (unit + 1) * size), shape).to(self.device)
        guide = None if self.guide is None else self.guide.evaluate
        denoise = Guided(self.evaluate, padded, settings.guidance, settings.interval, guide)
        x = solve(settings.sampler, denoise, noise * sigmas[0], sigmas, denoise.acts)
        images = self.stretch.inverse(x.cpu()[slots])
        if not bool(torch.isfinite(x).all() and torch.isfinite(images).all()):
            raise BadInput(
                f"{self.path}: draws pixels that are not finite with {settings.steps} steps of {settings.sampler} at guidance "
                f"{settings.guidance:g}; take more steps, less guidance, or a model that has learned more"
            )
        return images

    def _galaxies(self, images: Tensor, asked: Conditions, index: Tensor, seed: int) -> Galaxies:
        short = self.digest.sha256[:12]
        n = len(index)
        return Galaxies(
            images,
            counts=torch.zeros(n, len(self.schema.answers)),
            numeric=torch.full((n, len(NUMERIC)), float("nan")),
            index=index,
            ids=[f"gen-{short}-{seed}-{i}" for i in index.tolist()],
            cond_counts=asked.counts,
            cond_numeric=asked.numeric,
        )

    def sample(
        self,
        asked: Any = None,
        n: int | None = None,
        *,
        seed: int = 0,
        voters: int = 40,
        index: Tensor | None = None,
        guide: Generator | str | Path | None = None,
        **changes: Any,
    ) -> GalaxyBatch:
        """Draws galaxies and gives them as a batch.

        `asked` is votes ("has-spiral-arms_yes=0.9"), answers ("barred spiral, 2 arms"), a table with vote or numeric columns (a
        mapping, pyarrow, astropy or pandas table: one galaxy a row), `Conditions`, or None for whatever the model likes. `changes`
        are sampler, steps, guidance and interval; `guide` is a model to be led away from (`guided_by`), or where one lies.
        """
        if guide is not None:
            return self.guided_by(guide).sample(asked, n, seed=seed, voters=voters, index=index, **changes)
        wanted, _ = requested(asked, n, voters, self.schema)
        if index is None:
            index = torch.arange(len(wanted.counts))
        settings = Settings.of(self.config.sample, **changes)
        if len(index) != len(wanted):
            raise GalaxySDError(f"index: {len(index)} galaxies, {len(wanted)} are asked for; give one index each")
        rows, images = (torch.cat(parts) for parts in zip(*self._drawn(wanted, index, seed, settings, 64, None), strict=True))
        galaxies = self._galaxies(images[rows.argsort()], wanted, index, seed)
        return GalaxyBatch(galaxies, self.frame, self.provenance(settings, seed))


def guidable(model: Generator, guide: Generator) -> None:
    """Refuses a guide whose answers mean something else than the model's."""
    trained, loaded = "guide with a smaller or an earlier model that was trained like this one", "load both alike"
    pairs: list[tuple[str, Any, Any, str]] = []
    for what in ("frame", "stretch"):
        mine, theirs = getattr(model, what), getattr(guide, what)
        pairs += [(f"{what}.{each.name}", getattr(mine, each.name), getattr(theirs, each.name), trained) for each in fields(mine)]
    for name in SAMPLED:
        pairs.append((f"diffusion.{name}", getattr(model.config.diffusion, name), getattr(guide.config.diffusion, name), trained))
    pairs.append(("condition.schema", model.config.condition.schema, guide.config.condition.schema, trained))
    pairs.append(("precision", PRECISIONS[model.denoiser.dtype], PRECISIONS[guide.denoiser.dtype], loaded))
    pairs.append(("device", model.device, guide.device, loaded))
    for name, one, other, advice in pairs:
        if one != other:
            raise BadInput(f"guide {guide.path}: {name} is {other}, that of {model.path} is {one}; {advice}")


def load(model: str | Path, *, dtype: str = "auto", device: str | torch.device = "auto") -> Generator:
    """Loads a model to draw from: a run folder, a checkpoint folder or file, or the name of a bundled model.

    `auto` is the GPU where there is one, and bf16 where the device computes in it.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    path, expected, warnings = checkpoint.locate(model)
    for warning in warnings:
        print(f"galaxysd: {warning}; using {path.parent.name}", file=sys.stderr)
    return Generator(checkpoint.read(path, expected), dtype, device)
