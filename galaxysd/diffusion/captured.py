"""A denoiser as captured CUDA graphs: one for each shape it is asked for, recorded at first use. Not measured on a GPU yet.

A plain step of a unit is one shape, a guided one another: two graphs serve a whole set. What is given is copied into the graph's own
buffers, the noise level as a tensor too: a number would be recorded as it was in the first step.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from galaxysd.diffusion.guidance import Evaluate

# Work and its device -> what repeats it, and the tensor that every repetition writes.
Capture = Callable[[Callable[[], Tensor], torch.device], tuple[Callable[[], object], Tensor]]
WARM_UPS = 2  # kernels are compiled and libraries set up before anything is recorded


def cuda_graph(work: Callable[[], Tensor], device: torch.device) -> tuple[Callable[[], object], Tensor]:
    """Records `work` as a graph of its kernels."""
    with torch.cuda.device(device):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                work()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # Threads that draw other units go on: only this one's calls are recorded.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            out = work()
    return graph.replay, out


@dataclass(frozen=True)
class _Step:
    """One recorded shape."""

    given: tuple[Tensor, ...]  # the buffers it reads
    replay: Callable[[], object]
    out: Tensor


class Captured:
    """The same as `denoiser`, x [B, C, H, W], sigma [B] and features [B, F], by replay. Safe to call from several threads."""

    def __init__(self, denoiser: Evaluate, capture: Capture = cuda_graph) -> None:
        self.denoiser, self.capture = denoiser, capture
        self._steps: dict[tuple[torch.Size, ...], _Step] = {}
        self._one = threading.Lock()  # a graph's buffers hold one call at a time

    @torch.inference_mode()
    def __call__(self, x: Tensor, sigma: Tensor, features: Tensor) -> Tensor:
        given = (x, sigma, features)
        shape = tuple(each.shape for each in given)
        with self._one:
            if shape not in self._steps:
                self._steps[shape] = self._recorded(given)
            step = self._steps[shape]
            for buffer, each in zip(step.given, given, strict=True):
                buffer.copy_(each)
            step.replay()
            return step.out.clone()  # the next replay writes there again

    def _recorded(self, given: tuple[Tensor, Tensor, Tensor]) -> _Step:
        x, sigma, features = buffers = (given[0].clone(), given[1].clone(), given[2].clone())
        replay, out = self.capture(lambda: self.denoiser(x, sigma, features), x.device)
        return _Step(buffers, replay, out)
