"""Training that starts from a trained model: on a few dozen or a few hundred galaxies of one's own, a class outside the tree included.

The model's architecture, stretch and conditions are kept. A new class is a question more, whose columns in the network begin at zero:
before the first step the model draws what it drew before. A share of every batch is rehearsed from what the model was trained on, where
that is at hand, and says "no" to the new class; without it a model soon knows nothing but the new galaxies.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from galaxysd import checkpoint
from galaxysd import config as configs
from galaxysd.config import Config
from galaxysd.data import conditions
from galaxysd.data.conditions import TYPICAL_VOTERS
from galaxysd.data.galaxies import Frame
from galaxysd.data.mixed import Kept, Labelled, Mixed, Repeated
from galaxysd.data.readers import Source
from galaxysd.data.schema import schema, with_class
from galaxysd.errors import BadInput
from galaxysd.evaluate import features, memorisation
from galaxysd.model.described import Described, described
from galaxysd.runlog import Log
from galaxysd.sample.generate import load

# What differs from training anew; read after the model's own config and before --config and --set.
SETTINGS: dict[str, Any] = {"learning_rate": 2e-4, "warmup_images": 1000, "decay": 0.5, "ema_images": 5000.0, "grid_minutes": 2.0}
LIMITS: dict[str, Any] = {"steps": 0, "images": 0, "minutes": 0.0}
IMAGES = 20_000  # where nothing says when to stop
REHEARSED = 4096  # galaxies of what the model was trained on, where they are simulated again
COMPARED = 512  # of one's own galaxies
WATCHED = 32  # galaxies drawn to see how near they are to those trained on
CONDITION_IN = "embedding.condition_in.weight"  # the one tensor whose shape follows the schema


@dataclass(frozen=True)
class Start:
    """The model that a training starts from."""

    name: str
    source: checkpoint.Checkpoint
    found: Described

    def origin(self) -> dict[str, Any]:
        """What a checkpoint says of where it came from."""
        return {"model": self.found.config.name, "sha256": self.source.digest.sha256, "trained_on": self.source.about["trained_on"]}


def start(model: str) -> Start:
    """Reads the model of --from."""
    path, expected, _ = checkpoint.locate(model)
    source = checkpoint.read(path, expected)
    return Start(model, source, described(source, "denoiser"))


def config(of: Start, file: Path | None, overrides: Sequence[str], answer: str | None, limits: Mapping[str, Any]) -> Config:
    """The model's own config with what a fine-tuning changes, then --config and --set; its network cannot change."""
    base = asdict(of.found.config)
    base["train"] |= SETTINGS | LIMITS | {"images": 0 if limits else IMAGES}
    if answer is not None:
        base["condition"]["schema"] = with_class(of.found.labels, answer).name
    changed = configs.load(None, file, overrides, base)
    for name, mine in asdict(changed.model).items():
        theirs = getattr(of.found.config.model, name)
        if mine != theirs:
            raise BadInput(f"model.{name}: {mine} asked for, {theirs} in {of.name}; a model keeps its network, so leave it out")
    if changed.diffusion.sigma_data != of.found.config.diffusion.sigma_data:
        mine, theirs = changed.diffusion.sigma_data, of.found.config.diffusion.sigma_data
        raise BadInput(f"diffusion.sigma_data: {mine:g} asked for, {theirs:g} in {of.name}; a model keeps its stretch, so leave it out")
    return changed


def weights(of: Start, name: str) -> dict[str, Tensor]:
    """The model's tensors in float32, its first matrix of conditions widened to the schema of this name: new columns are zero."""
    tensors = {each: tensor.float() for each, tensor in of.source.tensors.items()}
    old, new = conditions.names(of.found.labels), conditions.names(schema(name))
    before = tensors[CONDITION_IN]
    if before.shape[1] != len(old):
        raise BadInput(f"{of.name}: {CONDITION_IN} has {before.shape[1]} columns, its schema asks for {len(old)}; the file is damaged")
    wide = before.new_zeros(len(before), len(new))
    wide[:, [new.index(each) for each in old]] = before
    return tensors | {CONDITION_IN: wide}


def check_frame(of: Start, mine: Frame) -> list[str]:
    """Refuses galaxies that the model's network and stretch cannot take; gives what only deserves a word."""
    theirs = of.found.frame
    for what in ("kind", "size", "bands", "unit"):
        here, there = getattr(mine, what), getattr(theirs, what)
        if here != there:
            raise BadInput(f"{what} of the images: {here!r}, and {of.name} draws {there!r}; import or simulate them alike")
    if mine.pixel_scale and theirs.pixel_scale and abs(math.log(mine.pixel_scale / theirs.pixel_scale)) > 0.02:
        return [
            f"the galaxies have {mine.pixel_scale:g} arcsec a pixel and those of {of.name} {theirs.pixel_scale:g}: sizes will not compare"
        ]
    return []


def mixture(mine: Source, known: Source | None, share: float, name: str, answer: str | None) -> Source:
    """What to train on: one's own galaxies, and a `share` of every batch of galaxies that the model knows."""
    if not 0 <= share < 1:
        raise BadInput(f"--rehearsal {share:g}: the share of galaxies the model knows; give at least 0 and less than 1")
    yes, no = ({f"{answer}_{word}": TYPICAL_VOTERS} if answer else {} for word in ("yes", "no"))
    own = Labelled(mine, name, yes)
    if known is None or not share:
        return own
    rows = sum(known.chunk_rows)
    times = max(1, round((1 - share) / share * rows / sum(own.chunk_rows)))
    return Mixed([Repeated(own, times), Labelled(known, name, no)])


def simulated(of: Start, size: int) -> Source | None:
    """Galaxies of the populations that the model was trained on, where those were simulated: rendered once and kept."""
    from galaxysd.simulate.survey import SimulatedSource

    about = of.source.about["trained_on"]
    parts = about.get("mixed", [about])
    if any(not isinstance(part, dict) or set(part) != {"simulated", "seed", "first", "n", "size"} for part in parts):
        return None
    sources = [
        SimulatedSource(part["simulated"], part["seed"], part["first"], min(part["n"], REHEARSED // len(parts)), size) for part in parts
    ]
    return Kept(sources[0] if len(sources) == 1 else Mixed(sources))


class Watch:
    """How near what a model draws is to the galaxies it is tuned on, beside how near those are to each other."""

    def __init__(self, mine: Source, ask: str | None) -> None:
        self.frame, self.ask, self.soft = mine.frame, ask, features.softening(mine)
        parts = [(features.coarse(each.images, mine.frame, self.soft), each.ids) for each in features.stream(mine, limit=COMPARED)]
        self.pixels, self.ids = torch.cat([part for part, _ in parts]), [name for _, names in parts for name in names]
        self.apart = float(memorisation.among(self.pixels).median())

    def look(self, run: Path, folder: Path, step: int) -> str:
        """Draws galaxies with the averaged weights and says how near they come; a line is kept in `nearest.jsonl`."""
        generator = load(folder)
        drawn = generator.sample(self.ask, WATCHED).galaxies
        near = memorisation.nearest(features.coarse(drawn.images, self.frame, self.soft), [(self.pixels, self.ids)])
        median = float(near.distance.median())
        copies = int((near.distance < memorisation.SUSPECT * self.apart).sum())
        found = {"step": step, "nearest": median, "apart": self.apart, "drawn": WATCHED, "nearer_than_half": copies}
        with Log(run / "nearest.jsonl") as log:
            log.write(**found)
        return (
            f"step {step}: drawn galaxies lie at {median:.3f} from the nearest of yours, yours at {self.apart:.3f} from each other; "
            f"{copies} of {WATCHED} are nearer than half of that"
        )
