"""The denoising UNet: pixel-unshuffle, a ladder of residual blocks down and up, pixel-shuffle.

Reads the noisy image, the noise coordinate and the encoded conditions; gives what the preconditioner of `diffusion.denoiser` asks of
a network. All blocks' scales and shifts come from one matrix product of the embedding.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from galaxysd.config import ModelConfig
from galaxysd.model.blocks import ResBlock
from galaxysd.model.embeddings import Embedding
from galaxysd.model.layers import Conv, Linear, NormSiLU, Pending

CHANNEL_MULTIPLE = 8  # image channels are padded to this for the stem and the head: tensor cores want it


class UNet(nn.Module):
    """x [B, C, S, S] at noise coordinate `noise` [B] under `features` [B, F] -> [B, C, S, S]."""

    def __init__(self, config: ModelConfig, features: int) -> None:
        super().__init__()
        self.config = config
        folded = config.image_channels * config.unshuffle**2
        self.padding = -folded % CHANNEL_MULTIPLE
        widths = config.channels
        sides = [config.image_size // config.unshuffle // 2**level for level in range(len(widths))]

        def block(inputs: int, level: int) -> ResBlock:
            head = config.head_width if sides[level] in config.attention else 0
            return ResBlock(inputs, widths[level], config.group_width, head, config.qk_norm)

        self.stem = Conv(folded + self.padding, widths[0])
        self.down = nn.ModuleList()
        self.shrink = nn.ModuleList()
        for level, width in enumerate(widths):
            self.down.append(nn.ModuleList(block(width, level) for _ in range(config.blocks)))
            if level + 1 < len(widths):
                self.shrink.append(Conv(width, widths[level + 1], stride=2))
        self.middle = block(widths[-1], len(widths) - 1)
        self.up = nn.ModuleList()
        self.grow = nn.ModuleList()
        for level in reversed(range(len(widths))):
            self.up.append(nn.ModuleList(block(2 * widths[level], level) for _ in range(config.blocks)))
            if level:
                self.grow.append(Conv(widths[level], widths[level - 1]))
        self.norm = NormSiLU(widths[0], config.group_width)
        self.head = Conv(widths[0], folded + self.padding, zero=True)

        self.embedding = Embedding(features, config.cond_width)
        self.blocks_in_order: list[ResBlock] = [
            *(each for level in self.down for each in _blocks(level)),
            self.middle,
            *(each for level in self.up for each in _blocks(level)),
        ]
        self.modulation = Linear(config.cond_width, 2 * sum(each.outputs for each in self.blocks_in_order), zero=True)

    def forward(self, x: Tensor, noise: Tensor, features: Tensor) -> Tensor:
        modulation = self.modulation(self.embedding(noise, features, x.dtype))
        parts = iter(modulation.split([2 * each.outputs for each in self.blocks_in_order], 1))

        x = F.pixel_unshuffle(x, self.config.unshuffle)
        h = Pending(self.stem(F.pad(x, (0, 0, 0, 0, 0, self.padding))))
        skips: list[Tensor] = []  # the output of every block on the way down, as the next reader adds it up
        for level, blocks in enumerate(self.down):
            for number, each in enumerate(_blocks(blocks)):
                h, entered = each(h, next(parts))
                if number:
                    skips.append(entered)
            if level < len(self.shrink):
                skips.append(h.whole())
                h = Pending(self.shrink[level](skips[-1]))
        h, entered = self.middle(h, next(parts))
        skips.append(entered)
        for level, blocks in enumerate(self.up):
            for each in _blocks(blocks):
                h, _ = each(h, next(parts), skips.pop())
            if level < len(self.grow):
                h = Pending(self.grow[level](F.interpolate(h.whole(), scale_factor=2.0, mode="nearest")))
        y, _ = self.norm.carry_into(self.head, h)
        return F.pixel_shuffle(y[:, : y.shape[1] - self.padding], self.config.unshuffle)


def _blocks(level: nn.Module) -> list[ResBlock]:
    """The blocks of one resolution."""
    return list(level.children())  # type: ignore[arg-type]
