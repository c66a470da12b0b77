"""Models of any preset with drawn weights: no training, and nothing of them is at its initial value, so that every part is heard."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from galaxysd import checkpoint, seeds
from galaxysd import config as configs
from galaxysd.data import conditions
from galaxysd.data.galaxies import Frame
from galaxysd.data.schema import GZ2
from galaxysd.model.unet import UNet


def perturbed(preset: str, path: Path, *settings: str) -> Path:
    """Writes a checkpoint of a preset's denoiser; every weight is normal, scaled by what it adds up."""
    config = configs.load(preset, overrides=settings)
    size = config.model.image_size
    net = UNet(config.model, conditions.width(GZ2))
    tensors = {}
    for name, value in net.state_dict().items():
        drawn = seeds.normal(1, f"perturbed-{name}", 0, tuple(value.shape))[0]
        if value.ndim > 1:
            tensors[name] = drawn / math.sqrt(value[0].numel())
        else:
            tensors[name] = 0.1 * drawn + (1.0 if "norm" in name and name.endswith("weight") else 0.0)
    frame = Frame("flux", size, pixel_scale=1.25, psf_fwhm=(1.3, 1.3, 1.3), sky_rms=(0.05, 0.07, 0.1))
    stretch = {"kind": "flux", "softening": [0.3, 0.45, 0.6], "gain": [0.6, 0.55, 0.5], "offset": [-0.25, -0.2, -0.3]}
    about = {
        "kind": "denoiser",
        "config": config.to_json(),
        "frame": frame.to_json(),
        "stretch": stretch,
        "trained_on": {"drawn": "weights"},
    }
    path.write_bytes(checkpoint.packed({name: value.to(torch.float32) for name, value in tensors.items()}, about))
    return path
