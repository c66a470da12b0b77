"""Makes the pictures of README and docs: `python docs/pictures.py [runs/demo]`. Nothing is picked: the first of each kind are shown."""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from galaxysd.data import readers, transforms, writers
from galaxysd.data.galaxies import Frame
from galaxysd.data.schema import GZ2
from galaxysd.simulate import recipe, truth
from galaxysd.simulate.latents import FEATURES, has
from galaxysd.simulate.recipe import Recipe
from galaxysd.simulate.survey import frame, simulate
from galaxysd.simulate.views import View

HERE = Path(__file__).parent
COLUMNS = 14
ROWS_OF = ("bar", "arms", "ring", "dust-lane", "merger", "disturbed", "lens", "other")  # the features the README shows


def strip(images: torch.Tensor, like: Frame) -> NDArray[np.uint8]:
    """Galaxies side by side: [H, n W, 3]."""
    shown = transforms.pictures(images, like)
    return shown.permute(1, 0, 2, 3).flatten(1, 2).numpy()


def labelled(path: Path, rows: list[tuple[str, NDArray[np.uint8]]], inch: float = 0.72, left: float = 2.6) -> None:
    """Rows of pictures with their names."""
    width = max(row.shape[1] / row.shape[0] for _, row in rows)
    figure, axes = plt.subplots(len(rows), 1, figsize=(left + inch * width, inch * len(rows)), squeeze=False, facecolor="black")
    share = left / (left + inch * width)
    figure.subplots_adjust(left=share, right=0.998, bottom=0.002, top=0.998, hspace=0.04)
    for (name, row), axis in zip(rows, axes[:, 0], strict=True):
        axis.imshow(row, interpolation="none", aspect="equal")
        axis.set_anchor("W")
        axis.set_axis_off()
        axis.text(-0.01, 0.5, name, transform=axis.transAxes, ha="right", va="center", color="white", fontsize=9)
    figure.savefig(path, dpi=100, facecolor="black", pil_kwargs={"quality": 88})
    plt.close(figure)


def simulated() -> None:
    """A row of galaxies with each feature, of the atlas at 64 pixels."""
    lat = recipe.draw("atlas", 7, range(2048))
    rows = [torch.nonzero(has(lat, name))[:COLUMNS, 0] for name in ROWS_OF]
    drawn = simulate("atlas", 7, torch.cat(rows), 64)
    writers.grid(HERE / "simulated.png", transforms.pictures(drawn.images, frame("atlas", 64)), columns=COLUMNS, replace=True)


def answers(columns: int = 12, size: int = 64) -> None:
    """The contact sheet: for each answer the first atlas galaxies that most volunteers gave it to."""
    drawn = simulate("atlas", 11, range(8192), size)
    winners = GZ2.winners(drawn.counts)
    rows = []
    for column, answer in enumerate(GZ2.answers):
        pick = torch.nonzero(winners[:, column])[:columns, 0]
        images = torch.zeros(columns, *drawn.images.shape[1:])
        images[: len(pick)] = drawn.images[pick]
        rows.append((answer, strip(images, frame("atlas", size))))
    labelled(HERE / "answers.jpg", rows)


def population(rows: int = 9, size: int = 128) -> None:
    """The survey as it comes: the first galaxies of one seed."""
    drawn = simulate("survey", 12, range(rows * COLUMNS), size)
    shown = transforms.pictures(drawn.images, frame("survey", size)).unflatten(0, (rows, COLUMNS))
    Image.fromarray(shown.permute(0, 2, 1, 3, 4).flatten(0, 1).flatten(1, 2).numpy()).save(HERE / "population.jpg", quality=88)


def twins(columns: int = 6, size: int = 64) -> None:
    """Galaxies, their twins without a feature, and where the feature lies."""
    rows = []
    lat = recipe.draw("atlas", 13, range(4096))
    for name in FEATURES:
        pick = torch.nonzero(has(lat, name))[:columns, 0]
        drawn = simulate("atlas", 13, pick, size, with_truth=True)
        plain = simulate(Recipe("atlas", without=(name,)), 13, pick, size)
        masks = truth.read(drawn.extra, size).masks[:, list(FEATURES).index(name)]
        three = []
        for row in range(len(pick)):
            pictures = [strip(each.images[row : row + 1], frame("atlas", size)) for each in (drawn, plain)]
            three += [*pictures, np.repeat((masks[row].numpy() * 180).astype(np.uint8)[..., None], 3, 2)]
        rows.append((f"{name}: with, without, mask", np.concatenate(three, 1)))
    labelled(HERE / "twins.jpg", rows)


def telescopes(columns: int = 10) -> None:
    """The same galaxies through five telescopes, and farther and farther away."""
    lat = recipe.draw("survey", 12, range(512))
    large = torch.nonzero((lat.r90 > 11) & (lat.kind != 4))[:columns, 0]
    rows = []
    for name, size in (("sdss", 128), ("decals", 128), ("hsc", 256), ("lsst", 256), ("euclid-vis", 400)):
        view = View(telescope=name)
        seen = simulate("survey", 12, large, size, view=view)
        like = frame("survey", size, view)
        if seen.images.shape[1] == 1:  # one band: grey
            seen.images = seen.images.expand(-1, 3, -1, -1) * torch.tensor([0.55, 0.85, 1.3])[:, None, None]
        images = transforms.display(seen.images, like.pixel_scale)
        if name != "sdss":  # to one size for the sheet
            images = (
                torch.nn.functional.interpolate(images.permute(0, 3, 1, 2).float(), size=(128, 128), mode="area").permute(0, 2, 3, 1).byte()
            )
        rows.append((name, images.permute(1, 0, 2, 3).flatten(1, 2).numpy()))
    for redshift in (0.03, 0.06, 0.12, 0.24):
        seen = simulate("survey", 12, large, 128, view=View(redshift=redshift))
        rows.append((f"sdss, moved to z = {redshift}", strip(seen.images, frame("survey", 128))))
    labelled(HERE / "telescopes.jpg", rows, inch=0.9)


def generated(demo: Path) -> None:
    """What the demo's model drew: a row of each class that was asked for, and two rows like held-out galaxies."""
    classes, like = readers.open_set(demo / "classes").read(), readers.open_set(demo / "like")
    rows = [classes.images[first::4][:COLUMNS] for first in range(4)]
    images = torch.cat([*rows, like.read(2 * COLUMNS).images])
    pictures = transforms.pictures(images, like.frame).repeat_interleave(2, 1).repeat_interleave(2, 2)
    writers.grid(HERE / "generated.png", pictures, columns=COLUMNS, replace=True)


if __name__ == "__main__":
    for make in (simulated, answers, population, twins, telescopes):
        make()
    if len(sys.argv) > 1:
        generated(Path(sys.argv[1]))
