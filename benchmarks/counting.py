"""What a pass of a network costs, counted as it runs: arithmetic, bytes that are moved, copies between layouts, memory that is held.

All but the copies are the same on tensors without data, so a preset is counted at its own batch whatever the machine.
"""

from __future__ import annotations

import weakref
from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from galaxysd.config import ModelConfig
from galaxysd.diffusion.denoiser import Denoiser

aten = torch.ops.aten
MOVES = {aten.copy_.default, aten.clone.default, aten._to_copy.default}
# Matrix products and convolutions: their maps pass through them whatever is fused around.
PRODUCTS = {aten.convolution.default, aten.convolution_backward.default, aten.mm.default, aten.addmm.default, aten.addmm_.default}
PRODUCTS |= {aten.bmm.default, aten.baddbmm.default, aten.linear.default}


def _ours(qkv: tuple[int, ...], heads: int, *_: object, **__: object) -> int:
    batch, packed, height, width = qkv
    return _torchs((batch, heads, height * width, packed // 3 // heads), *2 * [(batch, heads, height * width, packed // 3 // heads)])


def _torchs(q: tuple[int, ...], k: tuple[int, ...], v: tuple[int, ...], *_: object, **__: object) -> int:
    return int(sdpa_flop_count(q, k, v))


# Which torch's counter does not know.
ATTENTIONS = {torch.ops.galaxysd.attention: _ours, aten._scaled_dot_product_flash_attention_for_cpu: _torchs}


def given(config: ModelConfig, features: int, batch: int, device: torch.device | str) -> tuple[Tensor, Tensor, Tensor]:
    """An image, a noise level and conditions for a batch."""
    x = torch.ones(batch, config.image_channels, config.image_size, config.image_size, device=device)
    return x, torch.ones(batch, device=device), torch.ones(batch, features, device=device)


def flops(denoiser: Denoiser, config: ModelConfig, features: int, device: str | None = None) -> float:
    """GFLOP of a forward pass for an image."""
    place = device or next(denoiser.net.parameters()).device
    counter = FlopCounterMode(display=False, custom_mapping=ATTENTIONS)
    with torch.no_grad(), counter:
        denoiser(*given(config, features, 1, place))
    return float(counter.get_total_flops()) / 1e9


class Copies(TorchDispatchMode):
    """Counts copies of maps from one memory layout to another."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        source = args[1] if func is aten.copy_.default else args[0] if args else None
        if func in MOVES and isinstance(source, Tensor) and source.dim() == 4 and _order(source) != _order(out):
            self.count += 1
        return out


def _order(x: Tensor) -> list[int]:
    """The dimensions of a map from the slowest to the fastest, without those of length 1."""
    return sorted((d for d in range(4) if x.shape[d] > 1), key=lambda d: -x.stride(d))


def copies(denoiser: Denoiser, config: ModelConfig, features: int) -> int:
    """Copies between layouts in a forward and a backward pass."""
    x, sigma, conditions = given(config, features, 2, next(denoiser.net.parameters()).device)
    x = x.to(memory_format=denoiser.layout)
    with Copies() as counter:
        denoiser(x, sigma, conditions).sum().backward()
    denoiser.net.zero_grad(set_to_none=True)
    return counter.count


class Traffic(TorchDispatchMode):
    """Counts the bytes that operations read and write once each, without those of `PRODUCTS`; views move nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        views = any(each.alias_info is not None and not each.alias_info.is_write for each in func._schema.returns)
        if func not in PRODUCTS and not views and "empty" not in str(func):
            moved = (each for each in tree_leaves((args, kwargs, out)) if isinstance(each, Tensor))
            self.bytes[str(func)] += sum(each.numel() * each.itemsize for each in moved)
        return out

    @property
    def total(self) -> int:
        return self.bytes.total()


class Held(TorchDispatchMode):
    """The most bytes that tensors made while it is active hold at a time. What a kernel takes for itself meanwhile is not seen."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        before = {each.untyped_storage()._cdata for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)}
        for each in tree_leaves(out):
            if isinstance(each, Tensor) and (key := each.untyped_storage()._cdata) not in self.known | before:
                storage = each.untyped_storage()
                self.known.add(key)
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self._gone, key, storage.nbytes())
        return out

    def _gone(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size
