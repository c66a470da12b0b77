"""Timing the passes of contestants in one process, in turns: CPU time at one thread, or replays of CUDA graphs past the L2 cache.

On CUDA a contestant's turn is one replay of a graph that calls it once for each of several copies of its inputs, which together are
larger than three L2 caches; events around the replay time it. Clocks and power are left as they are, so only ratios within a round count.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.accuracy import floats, normal
from benchmarks.interleave import interleaved, repeats_for, turns
from benchmarks.peers import Call
from galaxysd.kernels.cases import Inputs, Shape

Run = Callable[[], object]
FORWARD, BOTH = "forward", "forward+backward"
TURN = 0.008  # seconds of CPU time a turn should take at least
COPIES = 64  # of the inputs, at most


def dense(y: Tensor, name: str, like: Tensor) -> Tensor:
    layout = torch.contiguous_format if like.ndim == 4 and like.is_contiguous() else torch.channels_last
    return normal(f"cotangent-{name}", tuple(y.shape), y.device).to(y.dtype).contiguous(memory_format=layout)


def passed(call: Call, given: Inputs, shape: Shape, which: str) -> Run:
    """One call of a contestant on these inputs: forward without gradients, or forward and every gradient."""
    if which == FORWARD:

        def forward() -> Any:
            with torch.no_grad():
                return call(given, shape)

        return forward
    leaves = {name: t.detach().requires_grad_() if t.is_floating_point() else t for name, t in given.items()}
    wanted, first = [leaves[name] for name in floats(given)], next(iter(given.values()))
    cotangents = [dense(y, str(k), first) for k, y in enumerate(call(leaves, shape))]

    def both() -> Any:
        return torch.autograd.grad(call(leaves, shape), wanted, cotangents)

    return both


def on_cpu(contestants: dict[str, Run], rounds: int, turn: float = TURN) -> dict[str, list[float]]:
    """Seconds a call, by contestant, at one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return interleaved(contestants, rounds, repeats=repeats_for(contestants["ours"], turn))
    finally:
        torch.set_num_threads(before)


def slowed(call: Run, factor: float) -> Run:
    """The call made to take `factor` times its CPU time: a planted regression."""

    def slow() -> None:
        began = time.process_time()
        call()
        until = began + factor * (time.process_time() - began)
        while time.process_time() < until:
            pass

    return slow


def copies_of(given: Inputs) -> list[Inputs]:
    """The inputs, and as many copies as push the first out of the L2 cache three times over."""
    size = sum(t.numel() * t.element_size() for t in given.values())
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    count = min(COPIES, max(2, -(-3 * cache // max(1, size))))

    def copied(t: Tensor) -> Tensor:
        return torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=t.device).copy_(t)

    return [given, *({name: copied(t) for name, t in given.items()} for _ in range(count - 1))]


class Replay:
    """Several calls as one CUDA graph, timed as `counted` of them."""

    def __init__(self, calls: list[Run], counted: int | None = None) -> None:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for call in calls[:3]:
                call()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        self.graph, self.calls = torch.cuda.CUDAGraph(), counted or len(calls)
        with torch.cuda.graph(self.graph):
            for call in calls:
                call()

    def seconds(self) -> float:
        """Of one call, from one replay."""
        began, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        began.record()
        self.graph.replay()
        ended.record()
        ended.synchronize()
        return began.elapsed_time(ended) / 1e3 / self.calls


def on_cuda(contestants: dict[str, Replay], rounds: int, warmup: int = 2) -> dict[str, list[float]]:
    """Seconds a call, by contestant, from replays in turns."""
    names = list(contestants)
    for _ in range(warmup):
        for name in names:
            contestants[name].seconds()
    found: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        for name in turns(names, number):
            found[name].append(contestants[name].seconds())
    return found


def cold(call: Run, rounds: int = 7) -> float:
    """Seconds of a call outside a graph with nothing of it in the cache: the median, launches included. A diagnostic."""
    flushed = torch.empty(3 * torch.cuda.get_device_properties(0).L2_cache_size, dtype=torch.uint8, device="cuda")
    found = []
    for _ in range(rounds + 2):
        flushed.zero_()
        torch.cuda.synchronize()
        began, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        began.record()
        call()
        ended.record()
        ended.synchronize()
        found.append(began.elapsed_time(ended) / 1e3)
    return sorted(found[2:])[rounds // 2]
