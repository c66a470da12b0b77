"""Where the time of a training step goes on a GPU: our kernels, convolutions, the rest."""

from __future__ import annotations

import re

import torch

from benchmarks import contest, gate, rows
from benchmarks.rows import Row
from galaxysd import config as configs

CONVOLUTION = re.compile(r"conv|cudnn|xmma|implicit|wgrad|dgrad|fprop", re.IGNORECASE)
STEPS = 3


def kind(name: str, ours: set[str]) -> str:
    """Which share a kernel of this name belongs to."""
    if name in ours:
        return "ours"
    return "convolutions" if CONVOLUTION.search(name) else "rest"


def shares(times: dict[str, float], ours: set[str]) -> dict[str, float]:
    """Shares of the whole, from the device time of each kernel by name."""
    found = dict.fromkeys(("ours", "convolutions", "rest"), 0.0)
    for name, seconds in times.items():
        found[kind(name, ours)] += seconds
    total = sum(found.values())
    return {name: value / total if total else 0.0 for name, value in found.items()}


def step(preset: str) -> Row:
    """A row with the shares of a training step of `preset` at its training batch."""
    call = contest.train_step(preset, batch=configs.load(preset).train.batch, device="cuda")["ours"]
    for _ in range(STEPS):
        call()
    torch.cuda.synchronize()
    activities = [torch.profiler.ProfilerActivity.CUDA, torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as seen:
        for _ in range(STEPS):
            call()
        torch.cuda.synchronize()
    times: dict[str, float] = {}
    for event in seen.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            times[event.name] = times.get(event.name, 0.0) + event.self_device_time_total / 1e6
    forms, _ = gate.recorded([90], "all")
    largest = sorted(times.items(), key=lambda pair: -pair[1])[:12]
    found = shares(times, {form.kernel for form in forms})
    return {"kind": "profile", **rows.provenance(), "preset": preset, "shares": found, "largest": dict(largest)}
