"""All randomness of galaxysd: one counter-based generator, Philox4x32-10, in integer torch ops.

A draw is a function of (seed, purpose, index, step) alone: there is no generator state, so rank, batch size, worker count and
restarts cannot change it. The integer bits are equal on every device; normals agree to rounding.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor

MASK = 0xFFFFFFFF
ROUND_A, ROUND_B = 0xD2511F53, 0xCD9E8D57  # multipliers, Salmon et al. 2011, table 2
WEYL_A, WEYL_B = 0x9E3779B9, 0xBB67AE85

Index = int | Sequence[int] | range | Tensor


def philox(counter: Tensor, key: tuple[int, int]) -> Tensor:
    """Philox4x32-10 of `counter` [..., 4] (32-bit words in int64) under a 64-bit key; gives [..., 4]."""
    c0, c1, c2, c3 = counter.unbind(-1)
    k0, k1 = key
    for _ in range(10):
        # A product of two 32-bit words wraps in int64, but both of its halves survive the wrap.
        a, b = c0 * ROUND_A, c2 * ROUND_B
        c0, c1, c2, c3 = (b >> 32 & MASK) ^ c1 ^ k0, b & MASK, (a >> 32 & MASK) ^ c3 ^ k1, a & MASK
        k0, k1 = (k0 + WEYL_A) & MASK, (k1 + WEYL_B) & MASK
    return torch.stack((c0, c1, c2, c3), -1)


def key(seed: int, purpose: str) -> tuple[int, int]:
    """The 64-bit key of a stream: streams of different purposes are unrelated even under one seed."""
    word = hashlib.sha256(f"{purpose}\0{seed}".encode()).digest()
    return int.from_bytes(word[:4], "little"), int.from_bytes(word[4:8], "little")


def as_index(index: Index, device: torch.device | str | None = None) -> Tensor:
    """Gives `index` as int64 [B]."""
    if isinstance(index, Tensor):
        return index.to(device=device or index.device, dtype=torch.int64).reshape(-1)
    return torch.tensor([index] if isinstance(index, int) else list(index), dtype=torch.int64, device=device)


def bits(seed: int, purpose: str, index: Index, n: int, step: int = 0, device: torch.device | str | None = None) -> Tensor:
    """Gives n independent 32-bit words for each index: int64 [B, n] in [0, 2^32)."""
    rows = as_index(index, device)
    blocks = torch.arange((n + 3) // 4, device=rows.device)
    counter = torch.stack(
        torch.broadcast_tensors(blocks[None], torch.tensor(step, device=rows.device), (rows & MASK)[:, None], (rows >> 32 & MASK)[:, None]),
        -1,
    )  # [B, blocks, 4]
    return philox(counter, key(seed, purpose)).flatten(1)[:, :n]


def uniform(
    seed: int, purpose: str, index: Index, shape: Sequence[int] = (), step: int = 0, device: torch.device | str | None = None
) -> Tensor:
    """Gives draws from the open interval (0, 1): float64 [B, *shape]."""
    words = bits(seed, purpose, index, math.prod(shape), step, device)
    return ((words.double() + 0.5) * 2.0**-32).reshape(-1, *shape)


def normal(
    seed: int, purpose: str, index: Index, shape: Sequence[int] = (), step: int = 0, device: torch.device | str | None = None
) -> Tensor:
    """Gives standard normal draws: float32 [B, *shape], the same for an index whatever its companions."""
    n = math.prod(shape)
    half = (n + 1) // 2
    u = uniform(seed, purpose, index, (2, half), step, device)
    # Box-Muller in float64: a last-bit difference between vector and scalar code paths is rounded away in float32.
    radius, angle = torch.sqrt(-2.0 * torch.log(u[:, 0])), (2.0 * math.pi) * u[:, 1]
    pair = torch.stack((radius * torch.cos(angle), radius * torch.sin(angle)), -1).flatten(1)
    return pair[:, :n].float().reshape(-1, *shape)


def permutation(seed: int, purpose: str, n: int, step: int = 0) -> Tensor:
    """Gives a permutation of range(n), int64 [n]; `step` numbers the epochs."""
    high, low = bits(seed, purpose, range(n), 2, step).unbind(-1)
    return torch.argsort((high << 31) | (low >> 1), stable=True)
