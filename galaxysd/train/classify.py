"""The classifier's side of training: from a batch of galaxies to the likelihood of their votes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from galaxysd.config import Config
from galaxysd.data import transforms
from galaxysd.data.galaxies import Frame, Galaxies
from galaxysd.data.schema import schema
from galaxysd.distributed import Share
from galaxysd.model.classifier import Classifier, concentrations, vote_loss
from galaxysd.train.denoise import check_frame, initialise, trainable


class ClassifyTask:
    """Learns how volunteers vote on a galaxy."""

    kind = "classifier"

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

    def loss(self, net: nn.Module, layout: torch.memory_format, galaxies: Galaxies, step: int, share: Share | None = None) -> Tensor:
        share = share or Share.whole(len(galaxies))
        position = share.places() + step * share.batch
        x = self.stretch.forward(galaxies.images)
        if self.config.train.flips:
            x = transforms.symmetry(x, transforms.codes(self.config.train.seed, "train-symmetry", position, False))
        out = net(x.to(self.device, memory_format=layout))
        return vote_loss(concentrations(out, self.labels), galaxies.counts.to(self.device), self.labels).mean()
