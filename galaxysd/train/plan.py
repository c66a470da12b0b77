"""What a training will cost, without starting it: shapes, parameters, arithmetic, memory, disk."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from galaxysd.config import Config
from galaxysd.data import conditions
from galaxysd.data.schema import schema
from galaxysd.diffusion.denoiser import resolve_dtype
from galaxysd.model.unet import UNet


def plan(config: Config, device: torch.device) -> dict[str, Any]:
    """Counts on the meta device, so nothing is allocated whatever the config asks for."""
    model, train = config.model, config.train
    dtype = resolve_dtype(train.dtype, device)
    labels = schema(config.condition.schema)
    rows = train.batch // train.accumulate  # that one rank has in memory at a time
    with torch.device("meta"):
        net = UNet(model, conditions.width(labels))
        image = torch.empty(rows, model.image_channels, model.image_size, model.image_size)
        counter = FlopCounterMode(display=False, custom_mapping={torch.ops.galaxysd.attention: _attention_flops})
        with counter, torch.autograd.graph.saved_tensors_hooks(kept := _Kept(), lambda t: t):
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
        "execution": "eager: " + why_eager(device),
    }


def _attention_flops(qkv: tuple[int, ...], heads: int, *_: object, **__: object) -> int:
    """Of our attention op, which the counter does not know: q k^T and its product with v, 2 N N C each."""
    batch, packed, height, width = qkv
    return 2 * 2 * batch * (packed // 3) * (height * width) ** 2


class _Kept:
    """Counts what autograd keeps, each storage once."""

    def __init__(self) -> None:
        self.bytes = 0
        self.seen: set[int] = set()

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        key = tensor.untyped_storage()._cdata
        if key not in self.seen and not isinstance(tensor, torch.nn.Parameter):
            self.seen.add(key)
            self.bytes += tensor.untyped_storage().nbytes()
        return tensor


def why_eager(device: torch.device) -> str:
    """Why the step is not compiled."""
    if device.type == "cpu":
        return "on a CPU torch.compile takes 25-150 s to start and gains nothing clear at a few cores"
    return "compiled training comes with a later version"


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
