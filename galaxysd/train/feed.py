"""What steps are computed from, made while the steps before them are: read, decoded, turned, noised by threads, in the run's own order."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from galaxysd.data.galaxies import Galaxies
from galaxysd.data.readers import Order, Source, batches
from galaxysd.distributed import Share

Part = tuple[Tensor, ...]  # what one forward pass is given
MOST_READERS = 4


class Prepares(Protocol):
    def prepare(self, galaxies: Galaxies, step: int, share: Share) -> Part: ...


@dataclass(frozen=True)
class Feed:
    """The batches of a run, each in the parts that its steps are computed in: the same for any number of readers."""

    task: Prepares
    source: Source
    seed: int
    shares: Sequence[Share]
    layout: torch.memory_format
    device: torch.device
    ranks: int = 1  # of this machine, which share its cores

    def start(self, step: int) -> Generator[list[Part]]:
        """The parts of step `step`, `step` + 1, ... without end; an error of a reader comes out here."""
        first, last = self.shares[0], self.shares[-1]
        rows = range(first.first, last.first + last.rows)
        order = Order.of(self.source, self.seed)
        return batches(self.source, order, step, first.batch, workers=self._readers(), rows=rows, finish=self._parts)

    def _readers(self) -> int:
        """One beside a CPU that trains; as many as have a core to themselves beside a GPU."""
        if self.device.type == "cpu":
            return 1
        return max(1, min(MOST_READERS, len(os.sched_getaffinity(0)) // self.ranks - 1))

    def _parts(self, step: int, galaxies: Galaxies) -> list[Part]:
        if len(self.shares) == 1:
            return [self._part(galaxies, step, self.shares[0])]
        offset = self.shares[0].first
        return [self._part(galaxies.rows(share.places() - offset), step, share) for share in self.shares]

    def _part(self, galaxies: Galaxies, step: int, share: Share) -> Part:
        return tuple(self._ready(each) for each in self.task.prepare(galaxies, step, share))

    def _ready(self, each: Tensor) -> Tensor:
        """Maps lie as the network reads them; memory is pinned where a copy to the device should pass by."""
        each = each.contiguous(memory_format=self.layout) if each.ndim == 4 else each
        return each.pin_memory() if self.device.type == "cuda" else each


def placed(part: Part, device: torch.device) -> Part:
    """A part on the device that trains; nobody waits for the copy."""
    return tuple(each.to(device, non_blocking=True) for each in part)
