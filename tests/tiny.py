"""A model and galaxies so small that a whole training takes a second: for what is the same at every size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from galaxysd import config as configs
from galaxysd import seeds
from galaxysd.config import Config
from galaxysd.data.galaxies import NUMERIC, Frame, Galaxies
from galaxysd.data.schema import GZ2
from galaxysd.data.transforms import Stretch
from galaxysd.distributed import ALONE, Ranks, Share
from galaxysd.runlog import StopSignals
from galaxysd.simulate.survey import SimulatedSource
from galaxysd.train.command import fit_stretch
from galaxysd.train.denoise import DenoiseTask
from galaxysd.train.loop import Piece, Result, Task, train

SETTINGS = (
    "model.image_size=8",
    "model.channels=[8,16]",
    "model.attention=[2]",
    "model.head_width=8",
    "model.cond_width=16",
    "train.batch=4",
    "train.threads=1",
    "train.dtype='fp32'",
    "train.warmup_images=20",
    "train.save_minutes=0",
    "sample.steps=3",
    "sample.unit=4",
)


def config(*settings: str) -> Config:
    """The tiny config, with further settings."""
    return configs.load("smoke-32", overrides=[*SETTINGS, *settings])


class Blobs:
    """A source of round blobs of light with votes, each a function of its index."""

    frame = Frame("flux", 8, pixel_scale=1.0, psf_fwhm=(1.3, 1.3, 1.3), sky_rms=(0.02, 0.02, 0.02))

    def __init__(self, chunks: int = 4, rows: int = 16) -> None:
        self.chunk_rows = [rows] * chunks

    def load(self, k: int) -> Galaxies:
        index = torch.arange(k * self.chunk_rows[0], (k + 1) * self.chunk_rows[0])
        size = seeds.uniform(5, "blobs", index, (1, 1, 1)).float()
        axis = torch.arange(8.0) - 3.5
        light = torch.exp(-(axis[:, None] ** 2 + axis**2) / (2 + 6 * size)) * torch.tensor([0.5, 1.0, 1.5])[:, None, None]
        images = light + 0.02 * seeds.normal(5, "blobs-sky", index, (3, 8, 8))
        counts = torch.zeros(len(index), len(GZ2.answers))
        counts[:, 0], counts[:, 1] = (40 * size[:, 0, 0, 0]).round(), (40 - 40 * size[:, 0, 0, 0]).round()
        numeric = torch.full((len(index), len(NUMERIC)), float("nan"))
        numeric[:, 1] = 17 - size[:, 0, 0, 0]
        return Galaxies(images, counts, numeric, index, [f"blob-{i}" for i in index.tolist()])

    def describe(self) -> dict[str, Any]:
        return {"blobs": sum(self.chunk_rows)}


def task(*settings: str) -> DenoiseTask:
    """The tiny training task."""
    source = Blobs()
    return DenoiseTask(config(*settings), source.frame, Stretch.fit(source.frame, source.load(0).images), torch.device("cpu"))


def run(out: Path, *settings: str, stop: StopSignals | None = None, piece: Piece | None = None, ranks: Ranks = ALONE) -> Result:
    """Trains in `out`, from where it stands."""
    return train(task(*settings), Blobs(), out, stop or StopSignals(), piece=piece, ranks=ranks)


def judged(out: Path, *settings: str) -> Path:
    """A run of a few steps on simulated galaxies of the size that the judge looks at."""
    small = config("model.image_size=32", "model.unshuffle=4", "train.steps=20", "sample.unit=16", *settings)
    source = SimulatedSource("tutorial", 1, 0, 64, 32)
    train(DenoiseTask(small, source.frame, fit_stretch(source, small), torch.device("cpu")), source, out, StopSignals())
    return out


def paced(folder: Path, monkeypatch: Any) -> list[str]:
    """Words of `python -m benchmarks train` and `sample` for a preset `tiny`, which there is until the test ends; rows go to `folder`."""
    model = "image_size = 16\nunshuffle = 1\nchannels = [8, 16]\nblocks = 1\nattention = [8]\nhead_width = 8\ncond_width = 16\n"
    (folder / "tiny.toml").write_text(f"[model]\n{model}[train]\nbatch = 2\n[sample]\nunit = 2\n")
    monkeypatch.setattr(configs, "PRESETS", folder)
    monkeypatch.setattr("benchmarks.unets.installed", lambda: False)  # none of diffusers' networks is as small
    return ["--preset", "tiny", "--dtype", "fp32", "--rounds", "1", "--device", "cpu", "--results", str(folder)]


def loss(task: Task, net: torch.nn.Module, galaxies: Galaxies, step: int) -> torch.Tensor:
    """The loss of these galaxies as a whole batch, as a step computes it."""
    return task.objective(net, torch.contiguous_format)(*task.prepare(galaxies, step, Share.whole(len(galaxies))))
