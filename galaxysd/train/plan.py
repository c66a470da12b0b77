"""What a training will cost, without starting it: shapes, parameters, arithmetic, memory, disk; refused where it cannot fit."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from galaxysd.config import Config, TrainConfig
from galaxysd.data import conditions
from galaxysd.data.schema import schema
from galaxysd.diffusion.denoiser import resolve_dtype
from galaxysd.errors import Unavailable
from galaxysd.model.layers import recomputing
from galaxysd.model.unet import UNet
from galaxysd.train.compiling import resolve_compile


def plan(config: Config, device: torch.device, ranks: int = 1) -> dict[str, Any]:
    """Counts on the meta device, so nothing is allocated whatever the config asks for."""
    model, train = config.model, config.train
    dtype = resolve_dtype(train.dtype, device)
    labels = schema(config.condition.schema)
    rows = max(1, train.batch // (ranks * train.accumulate))  # that one rank has in memory at a time
    with torch.device("meta"):
        net = UNet(model, conditions.width(labels))
        if train.recompute:
            recomputing(net)
        image = torch.empty(rows, model.image_channels, model.image_size, model.image_size)
        counter = FlopCounterMode(display=False, custom_mapping={torch.ops.galaxysd.attention: _attention_flops})
        with counter, Alive() as kept:
            out = net(image.to(dtype), torch.empty(rows), torch.empty(rows, conditions.width(labels)))
    parameters = sum(each.numel() for each in net.parameters())
    forward = counter.get_total_flops() / rows
    return {
        "preset": config.name,
        "input": [rows, model.image_channels, model.image_size, model.image_size],
        "output": list(out.shape),
        "conditions": conditions.width(labels),
        "maps": [[width, model.image_size // model.unshuffle // 2**level] for level, width in enumerate(model.channels)],
        "parameters": parameters,
        "dtype": str(dtype).removeprefix("torch."),
        "device": device.type,
        "gflop_forward_per_image": round(forward / 1e9, 3),
        "gflop_train_per_image": round(3 * forward / 1e9, 3),
        "memory_mb": {
            "weights, gradients, moments, EMA": round(5 * 4 * parameters / 2**20, 1),
            "activations kept for backward": round(kept.bytes / 2**20, 1),
        },
        "disk_mb_per_checkpoint": round(4 * 4 * parameters / 2**20, 1),
        "execution": execution(train.compile, device) + (", norms computed again in backward" if train.recompute else ""),
    }


def _attention_flops(qkv: tuple[int, ...], heads: int, *_: object, **__: object) -> int:
    """Of our attention op, which the counter does not know: q k^T and its product with v, 2 N N C each."""
    batch, packed, height, width = qkv
    return 2 * 2 * batch * (packed // 3) * (height * width) ** 2


class Alive(TorchDispatchMode):
    """Counts the bytes of all that was computed under it and is still held, each storage once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0
        self._held: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for each in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(each, Tensor) and (key := (storage := each.untyped_storage())._cdata) not in self._held:
                self._held.add(key)
                self.bytes += storage.nbytes()
                weakref.finalize(storage, self._freed, key, storage.nbytes())
        return out

    def _freed(self, key: int, size: int) -> None:
        self._held.discard(key)
        self.bytes -= size


def execution(compile: str, device: torch.device) -> str:
    """Whether the step is compiled, and why."""
    if resolve_compile(compile, device):
        return "compiled, block by block"
    return "eager: " + ("train.compile is off" if compile == "off" else "on a CPU compiled blocks take minutes to start and gain nothing")


def check_memory(found: dict[str, Any], config: Config, device: torch.device, free: int | None = None) -> None:
    """Refuses a plan that cannot fit into what the device has free; what a library needs beside it is not known, so a close call passes."""
    free = free_bytes(device) if free is None else free
    state, kept = found["memory_mb"].values()
    kept = 0.5 * kept if device.type == "cuda" else kept  # at least: its kernels keep no normalised maps and join no sources
    needed, has, rows = state + kept, free / 2**20, found["input"][0]
    if needed <= has:
        return
    parts = f"weights, gradients, moments, EMA {state:.0f} MB, activations of {rows} images at a time {kept:.0f} MB"
    fits = int(rows * (has - state) / kept)
    advice = less_memory(config.train, rows, fits) if fits > 0 else "use a smaller preset or another device"
    raise Unavailable(f"memory: {needed:.0f} MB needed ({parts}), {has:.0f} MB free on {device}; {advice}")


def less_memory(train: TrainConfig, rows: int, fits: int | None = None) -> str:
    """What to set so that a rank has fewer than `rows` images in memory at a time: as many as fit, or else the next smaller part."""
    fits = max(1, rows - 1 if fits is None else min(fits, rows - 1))
    parts = next(parts for parts in range(1, rows + 1) if rows % parts == 0 and rows // parts <= fits)
    advice = [f"--set train.accumulate={train.accumulate * parts} ({rows // parts} at a time)"] if parts > 1 else []
    advice += [] if train.recompute else ["--set train.recompute=true (half of the activations or less)"]
    return " or ".join([*advice, "a smaller preset"])


def free_bytes(device: torch.device, meminfo: Path = Path("/proc/meminfo")) -> int:
    """What a process that starts now may take."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    lines = dict(line.split(":") for line in meminfo.read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024


def words(found: dict[str, Any]) -> str:
    """The plan as lines to read."""
    memory = found["memory_mb"]
    return "\n".join(
        [
            f"preset       {found['preset']}: {found['parameters'] / 1e6:.2f} M parameters, {found['conditions']} condition features",
            f"shapes       {tuple(found['input'])} -> {tuple(found['output'])}; maps "
            + ", ".join(f"{width} x {side} x {side}" for width, side in found["maps"]),
            f"arithmetic   {found['gflop_forward_per_image']} GFLOP forward, {found['gflop_train_per_image']} GFLOP a training image",
            "memory       " + ", ".join(f"{name} {value} MB" for name, value in memory.items()),
            f"disk         {found['disk_mb_per_checkpoint']} MB a checkpoint, two are kept",
            f"precision    {found['dtype']} on {found['device']}, weights float32",
            f"execution    {found['execution']}",
        ]
    )
