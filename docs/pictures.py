"""Makes the README's pictures: `python docs/pictures.py runs/demo`. Nothing is picked: the first galaxies of each set are shown."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from galaxysd.data import readers, transforms, writers
from galaxysd.simulate.survey import frame, simulate

HERE = Path(__file__).parent
COLUMNS = 14
KINDS = ("disc", "edge-on", "irregular", "spheroid", "dust-lane")


def simulated() -> None:
    """A row of each kind of the tutorial population at 64 pixels."""
    drawn = simulate("tutorial", 7, range(640), 64)
    rows = [[i for i, kind in enumerate(drawn.extra["kind"]) if kind == wanted][:COLUMNS] for wanted in KINDS]
    pick = torch.tensor([i for row in rows for i in row])
    writers.grid(HERE / "simulated.png", transforms.pictures(drawn.images[pick], frame("tutorial", 64)), columns=COLUMNS, replace=True)


def generated(demo: Path) -> None:
    """What the demo's model drew: a row of each class that was asked for, and two rows like held-out galaxies."""
    classes, like = readers.open_set(demo / "classes").read(), readers.open_set(demo / "like")
    rows = [classes.images[first::4][:COLUMNS] for first in range(4)]
    images = torch.cat([*rows, like.read(2 * COLUMNS).images])
    pictures = transforms.pictures(images, like.frame).repeat_interleave(2, 1).repeat_interleave(2, 2)
    writers.grid(HERE / "generated.png", pictures, columns=COLUMNS, replace=True)


if __name__ == "__main__":
    simulated()
    generated(Path(sys.argv[1]))
