"""A finished run as one file to hand on: averaged weights in half precision, with a card of how they came to be.

float16 and not bfloat16: both halve the bytes, and a weight rounds by at most 2^-11 of itself against 2^-8. Its smaller range is no
loss, since weights of 65504 and more are refused here. Whoever loads the file holds float32 again.
"""

from __future__ import annotations

import argparse
import platform
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import galaxysd
from galaxysd import checkpoint, files
from galaxysd.errors import GalaxySDError
from galaxysd.train.loop import Result


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ship", type=Path, metavar="FILE", help="also write the finished model as one file, weights in half precision")


def check(path: Path | None) -> None:
    """Refuses a name that is taken before the hours of training, not after."""
    if path is not None and path.exists():
        raise GalaxySDError(f"--ship {path}: already there, and nothing is overwritten; give another name")


def ship(path: Path, result: Result, words: Sequence[str]) -> Path:
    """Writes the model of a finished run; `words` are the command that made it."""
    found = checkpoint.read(result.checkpoint / "model.safetensors")
    about = {**found.about, "card": card(result, found.about, words)}
    content = checkpoint.packed(halved(found.tensors, result.run), about)
    files.commit(path, lambda file: file.write(content))
    return path


def halved(tensors: Mapping[str, Tensor], where: Path) -> dict[str, Tensor]:
    """The weights in float16; one that does not fit is refused by name."""
    half = {name: tensor.half() for name, tensor in tensors.items()}
    for name, tensor in half.items():
        if not bool(torch.isfinite(tensor).all()):
            raise GalaxySDError(
                f"{where}: {name} reaches {float(tensors[name].abs().max()):g}, half precision ends at 65504; "
                "use the run as it is, or train with a lower train.learning_rate"
            )
    return half


def card(result: Result, about: Mapping[str, Any], words: Sequence[str]) -> dict[str, Any]:
    """The facts of how a model was made: command, data, length, time, machines, versions."""
    versions = {"galaxysd": galaxysd.__version__, "torch": str(torch.__version__), "python": platform.python_version()}
    return {
        "command": shlex.join(["galaxysd", *map(_placeless, words)]),
        "data": about["trained_on"],
        "images": result.images,
        "steps": result.steps,
        "seconds": round(result.seconds, 1),  # of the steps, by the clock
        "cpu_seconds": round(result.spent.cpu_seconds, 1),
        "calls": result.spent.calls,
        "device": result.device,
        "machines": list(result.spent.machines),
        "versions": versions,
    }


def _placeless(word: str) -> str:
    """A word of a command without the folders of the machine it was given on."""
    option, equals, value = word.rpartition("=") if word.startswith("--") else ("", "", word)
    return option + equals + (Path(value).name if value.startswith("/") else value)
