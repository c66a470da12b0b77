"""The networks that ours is measured against: any module as a denoiser, and diffusers' UNet2DModel of as many FLOPs."""

from __future__ import annotations

import contextlib
import importlib.util

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.counting import flops
from galaxysd import config as configs
from galaxysd.config import ModelConfig
from galaxysd.diffusion.denoiser import Denoiser
from galaxysd.errors import BadInput
from galaxysd.model.layers import laid_out

WITHIN = 0.1  # of our FLOPs, for a network of another build


def installed() -> bool:
    """Whether diffusers is there to compare with."""
    return importlib.util.find_spec("diffusers") is not None


def wrapped(net: nn.Module, like: Denoiser) -> Denoiser:
    """A denoiser of another network, in the dtype, the layout and on the device of one of ours."""
    place = next(like.net.parameters()).device
    made = Denoiser(laid_out(net.to(place), like.layout), like.config, like.dtype)
    made.layout = like.layout
    return made


class Diffusers(nn.Module):
    """UNet2DModel on the same unshuffled maps, conditions added to its time embedding; autocast, as it is trained."""

    def __init__(self, config: ModelConfig, features: int, width: int) -> None:
        super().__init__()
        from diffusers import UNet2DModel

        self.unshuffle, levels = config.unshuffle, len(config.channels)
        sides = [config.image_size // config.unshuffle // 2**level for level in range(levels)]
        folded = config.image_channels * config.unshuffle**2
        attended = ["Attn" if side in config.attention else "" for side in sides]
        self.net = UNet2DModel(
            sample_size=sides[0],
            in_channels=folded,
            out_channels=folded,
            layers_per_block=config.blocks,
            block_out_channels=tuple(width * each // config.channels[0] // 8 * 8 for each in config.channels),
            down_block_types=tuple(f"{each}DownBlock2D" for each in attended),
            up_block_types=tuple(f"{each}UpBlock2D" for each in reversed(attended)),
            norm_num_groups=8,
            attention_head_dim=8,
            class_embed_type="identity",
        )
        self.features = nn.Linear(features, 4 * self.net.config.block_out_channels[0])

    def forward(self, x: Tensor, noise: Tensor, features: Tensor) -> Tensor:
        with contextlib.nullcontext() if x.dtype == torch.float32 else torch.autocast(x.device.type, x.dtype):
            labels = self.features(features)
            y: Tensor = self.net(F.pixel_unshuffle(x, self.unshuffle), 1000 * noise, class_labels=labels).sample
        return F.pixel_shuffle(y, self.unshuffle)


def diffusers_like(config: ModelConfig, features: int, gflop: float) -> Diffusers:
    """The width at which its FLOPs are nearest ours; refused where none is within a tenth."""

    def cost(width: int) -> float:
        with torch.device("meta"):
            return flops(Denoiser(Diffusers(config, features, width), configs.DiffusionConfig()), config, features, "meta")

    costs = {width: cost(width) for width in range(16, 3 * config.channels[0], 8)}
    width = min(costs, key=lambda each: abs(costs[each] - gflop))
    if abs(costs[width] / gflop - 1) > WITHIN:
        raise BadInput(f"diffusers: {costs[width]:.3f} GFLOP at its nearest width of {width}, ours has {gflop:.3f}; not within a tenth")
    return Diffusers(config, features, width)
