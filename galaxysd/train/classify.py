"""The classifier's side of training: from a batch of galaxies to the likelihood of their votes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from galaxysd.config import Config
from galaxysd.data import transforms
from galaxysd.data.galaxies import Frame, Galaxies
from galaxysd.data.schema import Schema, schema
from galaxysd.distributed import Share
from galaxysd.model.classifier import Block, Classifier, concentrations, vote_loss
from galaxysd.train.denoise import check_frame, initialise, trainable


class ClassifyTask:
    """Learns how volunteers vote on a galaxy."""

    kind = "classifier"
    blocks: tuple[type[nn.Module], ...] = (Block,)

    def __init__(self, config: Config, frame: Frame, stretch: transforms.Stretch, device: torch.device) -> None:
        check_frame(config.model, frame)
        self.config, self.frame, self.stretch, self.device = config, frame, stretch, device
        self.labels = schema(config.condition.schema)
        self.dtype = torch.float32  # small, and its judgement should not depend on the machine's arithmetic

    def build(self) -> nn.Module:
        net = Classifier(self.config.model, self.labels)
        initialise(net, self.config.train.seed)
        return trainable(net, self.config.train.only).to(self.device)

    def about(self) -> dict[str, Any]:
        return {"stretch": self.stretch.to_json(), "frame": self.frame.to_json()}

    def objective(self, net: nn.Module, layout: torch.memory_format) -> nn.Module:
        """The loss of what `prepare` gives, on the device; the feed brings images in the network's layout."""
        return Objective(net, self.labels)

    def prepare(self, galaxies: Galaxies, step: int, share: Share) -> tuple[Tensor, ...]:
        """Images and votes of a batch, or of a share of it."""
        x = self.stretch.forward(galaxies.images)
        if self.config.train.flips:
            position = share.places() + step * share.batch
            x = transforms.symmetry(x, transforms.codes(self.config.train.seed, "train-symmetry", position, False))
        return x, galaxies.counts


class Objective(nn.Module):
    """The mean of minus the log likelihood of counts [B, A] under what the network says of x [B, C, S, S]: the region that is compiled."""

    def __init__(self, net: nn.Module, labels: Schema) -> None:
        super().__init__()
        self.net, self.labels = net, labels

    def forward(self, x: Tensor, counts: Tensor) -> Tensor:
        return vote_loss(concentrations(self.net(x), self.labels), counts, self.labels).mean()
