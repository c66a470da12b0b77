"""What is drawn or classified, on its way to disk: parts of a bounded size, so that memory does not grow with their number."""

from __future__ import annotations

import math
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from bundle_drawing import pictures

PART = 1024  # rows in a file
GRID = 64  # pictures on the sheet, at most


class Parts:
    """Columns of arrays as `<stem>-<first row>.npz`, a file as soon as a part is whole; the last one when all is well."""

    def __init__(self, out: Path, stem: str, first: int, **same: Any) -> None:
        self.out, self.stem, self.begun, self.same = out, stem, first, same  # `same` goes into each
        self.held: list[dict[str, np.ndarray]] = []
        self.rows = 0  # of those held

    def add(self, **columns: np.ndarray) -> None:
        """Rows that follow those before them."""
        self.held.append(columns)
        self.rows += len(next(iter(columns.values())))
        if self.rows >= PART:
            self._write()

    def _write(self) -> None:
        joined = {name: np.concatenate([each[name] for each in self.held]) for name in self.held[0]}
        np.savez(self.out / f"{self.stem}-{self.begun:08d}.npz", **joined, **self.same)
        self.begun, self.held, self.rows = self.begun + self.rows, [], 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None and self.held:
            self._write()


class Pictures:
    """The first `wanted` galaxies as PNG, and a sheet of the first 64; three bands make a colour, other images have none."""

    def __init__(self, out: Path, frame: dict[str, Any], wanted: int) -> None:
        self.out, self.frame = out, frame
        self.wanted = wanted if len(frame["bands"]) == 3 else 0
        self.tiles: list[np.ndarray] = []

    def add(self, index: range, images: np.ndarray) -> None:
        from PIL import Image

        taken = min(len(index), self.wanted)
        self.wanted -= taken
        if taken:
            for i, picture in zip(index, pictures(images[:taken], self.frame), strict=False):
                Image.fromarray(picture).save(self.out / f"{i:08d}.png")
                if len(self.tiles) < GRID:
                    self.tiles.append(picture)

    def sheet(self) -> None:
        """grid.png, of what there is."""
        from PIL import Image

        if not self.tiles:
            return
        columns = math.isqrt(len(self.tiles) - 1) + 1
        tiles = [*self.tiles, *[np.zeros_like(self.tiles[0])] * (-len(self.tiles) % columns)]
        rows = [np.concatenate(tiles[first : first + columns], 1) for first in range(0, len(tiles), columns)]
        Image.fromarray(np.concatenate(rows)).save(self.out / "grid.png")
