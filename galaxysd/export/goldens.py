"""What torch makes of chosen inputs: single calls at all noise levels, solver steps, whole images. A bundle is held against these."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from typing import IO

import numpy as np
import torch
from torch import Tensor

from galaxysd import seeds
from galaxysd.data import conditions
from galaxysd.data.conditions import Conditions
from galaxysd.data.galaxies import NUMERIC
from galaxysd.data.schema import Schema
from galaxysd.diffusion.guidance import Guided
from galaxysd.diffusion.samplers import levels, solve
from galaxysd.errors import GalaxySDError
from galaxysd.model.classifier import Judge, concentrations
from galaxysd.sample.generate import Generator

BATCHES = (1, 3, 8)
WHOLE, SEED = 2, 7  # galaxies drawn whole, and their seed
LEAST_SPREAD = 0.1  # of an output: a network that says next to nothing agrees with every graph


def of_denoiser(generator: Generator) -> dict[str, Tensor]:
    """Calls, steps and images of a generator loaded in float32."""
    if generator.denoiser.dtype is not torch.float32:
        raise GalaxySDError(f"export: the model was loaded in {generator.denoiser.dtype}; load it with dtype='fp32'")
    rows, config, frame = max(BATCHES), generator.config.diffusion, generator.frame
    ramp = torch.tensor([3 * i % rows for i in range(rows)]).double() / (rows - 1)  # mixed: the last ones are a batch of their own
    sigma = (config.sigma_min * (config.sigma_max / config.sigma_min) ** ramp).float()
    shape = (len(frame.bands), frame.size, frame.size)
    x = seeds.normal(0, "export-x", range(rows), shape) * (sigma**2 + config.sigma_data**2).sqrt()[:, None, None, None]
    asked = requests(generator.schema, rows)
    features = conditions.encode(asked, generator.schema)
    strength, strength_after = torch.linspace(1, 3, rows), torch.linspace(2, 1, rows)
    after = sigma * torch.linspace(0, 0.8, rows)  # the first goes to zero, in one evaluation
    with torch.inference_mode():
        x0 = generator.denoiser(x, sigma, features)
        told = (sigma * config.sigma_data * (sigma**2 + config.sigma_data**2).rsqrt())[:, None, None, None]
        network = (x0 - x * (config.sigma_data**2 / (sigma**2 + config.sigma_data**2))[:, None, None, None]) / told
        spoken({"x0": x0, "the network's part of x0": network}, generator.path)
        ahead = torch.cat([_step(generator, *each) for each in _rows(x, sigma, after, features, strength, strength_after)])
    calls = {"asked_counts": asked.counts, "asked_numeric": asked.numeric, "features": features, "x": x, "sigma": sigma, "x0": x0}
    steps = {"after": after, "strength": strength, "strength_after": strength_after, "ahead": ahead}
    return calls | steps | _images(generator, features[:WHOLE])


def _rows(*columns: Tensor) -> list[list[Tensor]]:
    return [[column[row : row + 1] for column in columns] for row in range(len(columns[0]))]


def _step(generator: Generator, x: Tensor, sigma: Tensor, after: Tensor, features: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """One step of the sampler heun for one row, whose guidance may change on the way."""
    guided = [Guided(generator.denoiser, features, float(strength), (0.0, float("inf"))) for strength in (first, second)]
    turn = iter(guided)
    return solve("heun", lambda x, level: next(turn)(x, level), x, [float(sigma), float(after)], lambda level: None)


@torch.inference_mode()
def _images(generator: Generator, features: Tensor) -> dict[str, Tensor]:
    """Whole images under the first features, from a seed to pixels, by heun in the model's own number of steps."""
    frame, sample, index = generator.frame, generator.config.sample, torch.arange(len(features))
    sigmas = levels(generator.config.diffusion, sample.steps)
    noise = seeds.normal(SEED, "sample", index, (len(frame.bands), frame.size, frame.size))
    denoise = Guided(generator.denoiser, features, sample.guidance, sample.interval)
    drawn = solve("heun", denoise, noise * sigmas[0], sigmas, denoise.acts)
    spoken({"the images": drawn}, generator.path)
    return {"drawn": drawn, "pixels": generator.stretch.inverse(drawn), "index": index, "seed": torch.tensor(SEED)}


@torch.inference_mode()
def of_classifier(judge: Judge) -> dict[str, Tensor]:
    """Fractions, concentrations and embeddings of images that lie in the stretch's range."""
    frame, rows = judge.frame, max(BATCHES)
    axis = torch.arange(frame.size) - (frame.size - 1) / 2
    width = 2 + 0.25 * frame.size * seeds.uniform(0, "export-width", range(rows), (1, 1, 1))
    light = torch.exp(-(axis[:, None] ** 2 + axis**2) / width)  # blobs of many sizes, under noise
    noise = 0.5 * seeds.normal(0, "export-images", range(rows), (len(frame.bands), frame.size, frame.size))
    images = judge.stretch.inverse((2 * light + noise).float()).float()
    embedding = judge.net.embed(judge.stretch.forward(images))
    alpha = concentrations(judge.net.read(embedding), judge.labels)
    fractions = judge.labels.fractions(alpha)
    spoken({"the fractions": fractions, "the embedding": embedding}, judge.path)
    return {"images": images, "fractions": fractions, "concentrations": alpha, "embedding": embedding}


def requests(schema: Schema, rows: int) -> Conditions:
    """Drawn conditions: the first asks for nothing, the others leave some questions and numbers unknown."""
    index = range(rows)
    votes = (seeds.uniform(0, "export-votes", index, (len(schema.answers),)) * 20).floor().float()
    asked = seeds.uniform(0, "export-asked", index, (len(schema.questions),))[:, schema.owner] < 0.7
    numeric = torch.full((rows, len(NUMERIC)), float("nan"))
    for column, name in enumerate(NUMERIC):
        floor, centre, spread = conditions.SCALES[name]
        value = centre + spread * seeds.normal(0, f"export-{name}", index).float()
        value = value.abs() if floor is None else (value.exp() - floor).clamp_min(0)
        numeric[:, column] = torch.where(seeds.uniform(0, f"export-known-{name}", index) < 0.7, value, torch.nan)
    first = torch.arange(rows)[:, None] == 0
    return Conditions(torch.where(first | ~asked, 0.0, votes), torch.where(first, torch.nan, numeric))


def spoken(outputs: Mapping[str, Tensor], path: object) -> None:
    """Refuses goldens that prove nothing."""
    for name, output in outputs.items():
        spread = float(output.std())
        if not spread >= LEAST_SPREAD:
            raise GalaxySDError(
                f"{path}: {name} spread by {spread:.2g}, {LEAST_SPREAD} at least is needed to tell a right graph from a wrong one; "
                "train the model first"
            )


def archive(file: IO[bytes], arrays: Mapping[str, Tensor]) -> None:
    """Writes arrays as an .npz that holds no pickle: before numpy 2.2 `savez` takes a word that forbids one for an array's name."""
    with zipfile.ZipFile(file, "w") as bundle:
        for name, array in arrays.items():
            with bundle.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, array.numpy(), allow_pickle=False)
