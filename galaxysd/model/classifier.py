"""A compact network that predicts how volunteers would vote, and the judge: such a network, trained and ready to look at galaxies.

For each question it gives a Dirichlet: the expected fraction of each answer and how firmly it is held. Votes then follow the
Dirichlet-multinomial law, so that 40 votes teach more than 10. The tree is not built in: fractions are conditional.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from galaxysd import checkpoint
from galaxysd.config import ModelConfig
from galaxysd.data.galaxies import Frame, Galaxies
from galaxysd.data.schema import Schema
from galaxysd.data.trained import seen
from galaxysd.data.transforms import symmetry
from galaxysd.errors import BadInput
from galaxysd.model.described import described
from galaxysd.model.layers import Conv, Linear, NormSiLU

JUDGE = "first-judge"


class Block(nn.Module):
    """Two normed convolutions added to their input; `stride` 2 halves the map first."""

    def __init__(self, inputs: int, outputs: int, group_width: int, stride: int) -> None:
        super().__init__()
        self.enter = Conv(inputs, outputs, 3 if stride > 1 else 1, stride) if stride > 1 or inputs != outputs else nn.Identity()
        self.norm1 = NormSiLU(outputs, group_width)
        self.conv1 = Conv(outputs, outputs)
        self.norm2 = NormSiLU(outputs, group_width)
        self.conv2 = Conv(outputs, outputs, zero=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        out: Tensor = x + self.norm2.into(self.conv2, self.norm1.into(self.conv1, x))
        return out


class Classifier(nn.Module):
    """Stretched images [B, C, S, S] -> (expected fractions' logits [B, A], log firmness [B, Q]); `embed` gives the layer before."""

    def __init__(self, config: ModelConfig, labels: Schema) -> None:
        super().__init__()
        self.labels = labels
        widths = config.channels
        self.stem = Conv(config.image_channels * config.unshuffle**2, widths[0])
        self.unshuffle = config.unshuffle
        blocks: list[Block] = []
        for level, width in enumerate(widths):
            before = widths[max(level - 1, 0)]
            blocks += [Block(before, width, config.group_width, 2 if level else 1)]
            blocks += [Block(width, width, config.group_width, 1) for _ in range(config.blocks - 1)]
        self.blocks = nn.Sequential(*blocks)
        self.norm = NormSiLU(widths[-1], config.group_width)
        self.hidden = Linear(2 * widths[-1], config.cond_width)
        self.out = Linear(config.cond_width, len(labels.answers) + len(labels.questions))

    def embed(self, x: Tensor) -> Tensor:
        """The last hidden layer, [B, cond_width]: mean and peak of every map, mixed."""
        h = self.norm(self.blocks(self.stem(F.pixel_unshuffle(x, self.unshuffle))))
        return F.silu(self.hidden(torch.cat((h.mean((2, 3)), h.amax((2, 3))), 1)))

    def read(self, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """What an embedding says: logits and log firmness."""
        logits, firmness = self.out(embedding).float().split([len(self.labels.answers), len(self.labels.questions)], 1)
        return logits, firmness

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.read(self.embed(x))


def concentrations(out: tuple[Tensor, Tensor], labels: Schema) -> Tensor:
    """The Dirichlet concentrations of every answer, [B, A]: expected fraction times firmness, which lies between 1 and 1000."""
    logits, firmness = out
    fractions = torch.cat([torch.softmax(logits[:, part], -1) for part in labels.slices], -1)
    total = torch.exp(firmness.clamp(0.0, 6.9))
    return fractions.clamp_min(1e-5) * total[:, labels.owner.to(total.device)]


def vote_loss(alpha: Tensor, counts: Tensor, labels: Schema) -> Tensor:
    """Minus the log likelihood of `counts` [B, A] under Dirichlet-multinomials `alpha` [B, A], without the constant of the counts: [B]."""
    total, voters = labels.voters(alpha), labels.voters(counts)
    answers = torch.lgamma(alpha + counts) - torch.lgamma(alpha)
    return -(torch.lgamma(total) - torch.lgamma(total + voters)).sum(1) - answers.sum(1)


class Judge:
    """A trained classifier that looks at galaxies of any size its own divides.

    With `symmetries` it looks at each galaxy turned and mirrored in all eight ways, and gives the mean: no way up is special then.
    """

    def __init__(self, source: checkpoint.Checkpoint, symmetries: bool = False) -> None:
        self.ways = range(8) if symmetries else range(1)
        found = described(source, "classifier")
        self.path, self.digest, self.config = source.path, source.digest, found.config
        self.trained_on: dict[str, Any] = source.about["trained_on"]
        self.labels, self.stretch, self.frame = found.labels, found.stretch, found.frame
        with torch.device("meta"):
            net = Classifier(self.config.model, self.labels)
        checkpoint.check_shapes(net, source.path)
        self.net = Classifier(self.config.model, self.labels)
        checkpoint.fill(self.net, source.tensors, source.path)
        self.net.eval().requires_grad_(False)

    def prepare(self, images: Tensor, frame: Frame) -> Tensor:
        """Stretched images at the judge's own size: larger ones are summed in whole blocks of pixels, which keeps their flux."""
        if frame.kind != self.frame.kind or frame.bands != self.frame.bands:
            raise BadInput(
                f"judge {self.path.stem}: looks at {self.frame.kind} images in {'/'.join(self.frame.bands)}, "
                f"these are {frame.kind} in {'/'.join(frame.bands)}"
            )
        factor, rest = divmod(images.shape[-1], self.frame.size)
        if rest or factor < 1:
            raise BadInput(f"judge {self.path.stem}: looks at {self.frame.size} px (or whole multiples), these are {images.shape[-1]} px")
        if factor > 1:
            images = F.avg_pool2d(images.float(), factor) * (factor**2 if frame.kind == "flux" else 1)
        return self.stretch.forward(images)

    @torch.inference_mode()
    def concentrations(self, galaxies: Galaxies, frame: Frame) -> Tensor:
        """Dirichlet concentrations of every answer, [B, A]."""
        return self.judged(galaxies, frame)[0]

    def fractions(self, galaxies: Galaxies, frame: Frame) -> Tensor:
        """Expected conditional fractions of every answer, [B, A]."""
        return self.labels.fractions(self.concentrations(galaxies, frame))

    def trained(self, ids: list[str]) -> tuple[list[str], str | None]:
        """Those of `ids` that it was trained on, and why that is not known of all of them."""
        return seen(self.trained_on, ids, self.path.parent)

    @torch.inference_mode()
    def look(self, galaxies: Galaxies, frame: Frame) -> tuple[Tensor, Tensor]:
        """Expected conditional fractions [B, A] and the embedding [B, E], for the price of one."""
        alpha, embedded = self.judged(galaxies, frame)
        return self.labels.fractions(alpha), embedded

    @torch.inference_mode()
    def embed(self, galaxies: Galaxies, frame: Frame) -> Tensor:
        """The last hidden layer, [B, E]: a space in which galaxies that look alike are near."""
        return self.judged(galaxies, frame)[1]

    @torch.inference_mode()
    def judged(self, galaxies: Galaxies, frame: Frame) -> tuple[Tensor, Tensor]:
        """Concentrations [B, A] and embedding [B, E]: the mean over the ways it looks."""
        parts = []
        for part in self.prepare(galaxies.images, frame).split(256):
            embedded = torch.stack([self.net.embed(symmetry(part, torch.full((len(part),), way))) for way in self.ways])
            alpha = torch.stack([concentrations(self.net.read(each), self.labels) for each in embedded])
            parts.append((alpha.mean(0), embedded.mean(0)))
        return torch.cat([alpha for alpha, _ in parts]), torch.cat([embedded for _, embedded in parts])


def load_judge(model: str | Path = JUDGE, symmetries: bool = False) -> Judge:
    """The judge that ships with galaxysd, or a classifier of your own."""
    path, expected, _ = checkpoint.locate(model)
    return Judge(checkpoint.read(path, expected), symmetries)
