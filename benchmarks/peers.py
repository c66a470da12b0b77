"""What each operation is measured against: plain torch that gives the same maps, the same compiled, and the libraries a user would try.

A peer of a form that adds or joins maps does so as well, and hands the joined map on: that is what a network without the form writes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from galaxysd.kernels.cases import Case, Inputs, Shape
from galaxysd.kernels.dropout import kept

Call = Callable[[Inputs, Shape], tuple[Tensor, ...]]
DROPOUT = 0.1  # of the case norm-dropout; a test compares the plain form of every case with its definition
EPS, QK_EPS = 1e-5, 1e-6
BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}


def _source(given: Inputs) -> Tensor:
    """The map a plain network would make before its norm: the sum, and the concatenation."""
    h = given["x"] + given["residual"] if "residual" in given else given["x"]
    return torch.cat((h, given["other"]), 1) if "other" in given else h


def _handed_on(given: Inputs, y: Tensor, h: Tensor) -> tuple[Tensor, ...]:
    return (y, h) if "residual" in given or "other" in given else (y,)


def _norm(resample: str, masked: bool) -> Call:
    """GroupNorm, affine, SiLU, dropout and resampling as modules would do them; `masked` takes our dropout's mask, to compare values."""

    def call(given: Inputs, shape: Shape) -> tuple[Tensor, ...]:
        h = _source(given)
        y = F.group_norm(h, shape.parts, given["weight"].to(h.dtype), given["bias"].to(h.dtype), EPS)
        if "scale" in given:
            y = torch.addcmul(given["shift"][:, :, None, None], y, 1 + given["scale"][:, :, None, None])
        y = F.silu(y)
        if "key" in given and masked:
            y = torch.where(kept(given["key"], y.shape, DROPOUT), y / (1 - DROPOUT), 0.0)
        elif "key" in given:
            y = F.dropout(y, DROPOUT)
        if resample == "up":
            y = F.interpolate(y, scale_factor=2.0, mode="nearest")
        elif resample == "down":
            y = F.avg_pool2d(y, 2)
        return _handed_on(given, y, h)

    return call


def _attention(backend: SDPBackend | None = None) -> Call:
    """torch's attention from packed QKV and back to a map, copies included."""

    def call(given: Inputs, shape: Shape) -> tuple[Tensor, ...]:
        qkv = given["qkv"]
        batch, packed, height, width = qkv.shape
        parts = qkv.permute(0, 2, 3, 1).reshape(batch, height * width, 3, shape.parts, packed // 3 // shape.parts)
        q, k, v = parts.permute(2, 0, 3, 1, 4)  # [B, h, N, D]
        if "qk_gain" in given:
            last = q.shape[-1:]
            q, k = F.rms_norm(q, last, given["qk_gain"].to(q.dtype), QK_EPS), F.rms_norm(k, last, eps=QK_EPS)
        if backend is None:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            with sdpa_kernel(backend):
                y = F.scaled_dot_product_attention(q, k, v)
        y = y.transpose(1, 2).reshape(batch, height, width, packed // 3).permute(0, 3, 1, 2)
        dense = torch.contiguous_format if qkv.is_contiguous() else torch.channels_last
        return (y.contiguous(memory_format=dense),)

    return call


def plain(case: Case, masked: bool = False) -> Call:
    """The eager peer."""
    if case.op == "attention":
        return _attention()
    resample = case.name.removeprefix("norm-")
    return _norm(resample if resample in ("up", "down") else "none", masked)


def _apex(given: Inputs, shape: Shape) -> Call:
    """apex's NHWC GroupNorm with SiLU inside; ImportError where it is not built."""
    from apex.contrib.group_norm import GroupNorm

    weight, bias = given["weight"], given["bias"]
    module = GroupNorm(shape.parts, len(weight), eps=EPS, device=weight.device, dtype=weight.dtype, act="silu")
    module.weight, module.bias = torch.nn.Parameter(weight.detach()), torch.nn.Parameter(bias.detach())

    def call(given: Inputs, shape: Shape) -> tuple[Tensor, ...]:
        h = _source(given)
        return _handed_on(given, module(h), h)

    return call


def peers(case: Case, given: Inputs, shape: Shape, compiled: bool) -> tuple[dict[str, Call], dict[str, str]]:
    """The contestants beside ours by name, and why others cannot take part."""
    eager = plain(case)
    found: dict[str, Call] = {"eager": eager}
    absent: dict[str, str] = {}
    if compiled:
        found["torch.compile"] = torch.compile(eager, dynamic=False)
    cuda = next(iter(given.values())).is_cuda
    if case.op == "attention" and cuda:
        found |= {f"sdpa {name}": _attention(backend) for name, backend in BACKENDS.items()}
    elif case.op == "group_norm_silu" and cuda and not {"scale", "key"} & set(given) and case.name not in ("norm-up", "norm-down"):
        try:
            found["apex"] = _apex(given, shape)
        except Exception as error:  # whatever a build of apex lacks: it is said in the row, and the others go on
            absent["apex"] = words(error)
    return found, absent


def words(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def copies(given: Inputs, shape: Shape, streams: float) -> Callable[[], Any]:
    """This machine's own copy of as many streams as the operation cannot avoid: two for each whole copy, the rest a part of a map."""
    first = next(iter(given.values()))
    source = torch.zeros(shape.elements, dtype=first.dtype, device=first.device)
    pairs = [(torch.empty_like(source), source) for _ in range(int(streams // 2))]
    rest = int(shape.elements * (streams % 2) / 2)
    if rest:
        pairs.append((torch.empty_like(source[:rest]), source[:rest]))

    def call() -> None:
        for target, origin in pairs:
            target.copy_(origin)

    return call
