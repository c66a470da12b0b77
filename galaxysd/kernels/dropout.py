"""Dropout whose mask is a function of a key and a position: the same in forward and backward, on any device, in any layout.

The key is a tensor of two int64, (seed, step), that lives where the data does: whoever advances the step inside a captured graph or
a compiled function gets another mask at every replay. An element's bits are the first word of Philox4x32-10 (Salmon et al. 2011)
at the counter (its index, step) under the key (seed).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from galaxysd.kernels.launching import tl, triton

_ROUND, _KEY, _WORD = (0xD2511F53, 0xCD9E8D57), (0x9E3779B9, 0xBB67AE85), 0xFFFFFFFF


def threshold(rate: float) -> int:
    """An element is dropped when its word is below this."""
    return round(rate * 2**32)


def kept(key: Tensor, shape: Sequence[int], rate: float) -> Tensor:
    """The definition: which elements of a map [B, C, H, W] stay; an element's index counts in NHWC order."""
    batch, channels, height, width = shape
    index = torch.arange(batch * channels * height * width, device=key.device).view(batch, height, width, channels).permute(0, 3, 1, 2)
    words = [index & _WORD, index >> 32, (key[1] & _WORD).expand_as(index), ((key[1] >> 32) & _WORD).expand_as(index)]
    k0, k1 = key[0] & _WORD, (key[0] >> 32) & _WORD
    for _ in range(10):
        high0, low0 = _product(words[0], _ROUND[0])
        high1, low1 = _product(words[2], _ROUND[1])
        words = [high1 ^ words[1] ^ k0, low1, high0 ^ words[3] ^ k1, low0]
        k0, k1 = (k0 + _KEY[0]) & _WORD, (k1 + _KEY[1]) & _WORD
    return words[0] >= threshold(rate)


def _product(word: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """The high and the low 32 bits of a product, in int64 without overflow."""
    low, high = word * (factor & 0xFFFF), word * (factor >> 16)
    middle = (low >> 16) + high
    return middle >> 16, ((middle << 16) | (low & 0xFFFF)) & _WORD


@triton.jit
def keep_tile(key_ptr, index, threshold):
    """Which elements of a tile stay, from their int64 indices."""
    seed, step = tl.load(key_ptr), tl.load(key_ptr + 1)
    low, high = (index & 0xFFFFFFFF).to(tl.uint32), (index >> 32).to(tl.uint32)
    step_low, step_high = (step & 0xFFFFFFFF).to(tl.uint32), (step >> 32).to(tl.uint32)
    word, _, _, _ = tl.philox(seed, low, high, step_low + 0 * low, step_high + 0 * low)
    return word.to(tl.int64) >= threshold
