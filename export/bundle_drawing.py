"""What drawing needs beside the network: the counter generator, the solver with guidance, the view of a condition, the stretch.

A small copy of galaxysd's in numpy: the random bits are its own, bit for bit, everything after them to rounding.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

MASK = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)
ROUND_A, ROUND_B = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)  # multipliers, Salmon et al. 2011, table 2
WEYL_A, WEYL_B = 0x9E3779B9, 0xBB67AE85

# x [B, C, H, W], sigma [B], features [B, F] -> the expected clean image
Denoiser = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def key(seed: int, purpose: str) -> tuple[int, int]:
    """The 64-bit key of a stream."""
    word = hashlib.sha256(f"{purpose}\0{seed}".encode()).digest()
    return int.from_bytes(word[:4], "little"), int.from_bytes(word[4:8], "little")


def bits(seed: int, purpose: str, index: Sequence[int] | range, n: int) -> np.ndarray:
    """n 32-bit words of Philox4x32-10 for each index: uint64 [B, n]."""
    rows = np.asarray(index, np.int64).astype(np.uint64)[:, None]
    blocks = np.arange((n + 3) // 4, dtype=np.uint64)[None]
    c0, c1, c2, c3 = np.broadcast_arrays(blocks, np.uint64(0), rows & MASK, rows >> HALF)
    k0, k1 = key(seed, purpose)
    for _ in range(10):
        a, b = c0 * ROUND_A, c2 * ROUND_B
        c0, c1, c2, c3 = (b >> HALF) ^ c1 ^ np.uint64(k0), b & MASK, (a >> HALF) ^ c3 ^ np.uint64(k1), a & MASK
        k0, k1 = (k0 + WEYL_A) & 0xFFFFFFFF, (k1 + WEYL_B) & 0xFFFFFFFF
    return np.stack((c0, c1, c2, c3), -1).reshape(len(rows), -1)[:, :n]


def normal(seed: int, purpose: str, index: Sequence[int] | range, shape: Sequence[int]) -> np.ndarray:
    """Standard normal draws for each index: float32 [B, *shape]."""
    n = math.prod(shape)
    half = (n + 1) // 2
    u = ((bits(seed, purpose, index, 2 * half).astype(np.float64) + 0.5) * 2.0**-32).reshape(-1, 2, half)
    radius, angle = np.sqrt(-2.0 * np.log(u[:, 0])), (2.0 * math.pi) * u[:, 1]
    pair = np.stack((radius * np.cos(angle), radius * np.sin(angle)), -1).reshape(len(u), -1)
    return pair[:, :n].astype(np.float32).reshape(-1, *shape)


def levels(sampling: dict[str, Any], steps: int) -> list[float]:
    """The noise levels of EDM, equation 5: `steps` from sigma_max to sigma_min, then 0."""
    rho = sampling["rho"]
    low, high = sampling["sigma_min"] ** (1 / rho), sampling["sigma_max"] ** (1 / rho)
    return [*((high + (i / max(steps - 1, 1)) * (low - high)) ** rho for i in range(steps)), 0.0]


def strength_at(sampling: dict[str, Any], sigma: float) -> float:
    """The strength of guidance at a noise level: 1, which is none, outside its interval."""
    low, high = sampling["interval"]
    return float(sampling["guidance"]) if low <= sigma <= high else 1.0


def heun(denoiser: Denoiser, x: np.ndarray, features: np.ndarray, sampling: dict[str, Any], steps: int) -> np.ndarray:
    """The image at noise level 0, from x at the first (EDM, algorithm 1), led away from the answer to no condition."""

    def denoise(x: np.ndarray, sigma: float) -> np.ndarray:
        level, strength = np.full(len(x), sigma, np.float32), strength_at(sampling, sigma)
        if strength == 1.0:
            return denoiser(x, level, features)
        both = np.concatenate((features, np.zeros_like(features)))
        with_condition, without = np.split(denoiser(np.concatenate((x, x)), np.concatenate((level, level)), both), 2)
        return without + np.float32(strength) * (with_condition - without)

    for now, after in pairwise(levels(sampling, steps)):
        slope = (x - denoise(x, now)) / now
        ahead = x + (after - now) * slope
        if after > 0:
            slope = 0.5 * (slope + (ahead - denoise(ahead, after)) / after)
            ahead = x + (after - now) * slope
        x = ahead
    return x


def by_steps(step: Callable[..., np.ndarray], x: np.ndarray, features: np.ndarray, sampling: dict[str, Any], steps: int) -> np.ndarray:
    """The same by the graph that is a whole step: x, sigma, after, features, strength, strength_after -> the image at `after`."""
    for now, after in pairwise(levels(sampling, steps)):
        told = [now, after, strength_at(sampling, now), strength_at(sampling, after)]
        sigma, later, strength, strength_later = (np.full(len(x), each, np.float32) for each in told)
        x = step(x, sigma, later, features, strength, strength_later)
    return x


class View:
    """What a condition (counts [B, A] of votes, numbers [B, N]; NaN is unknown) is to the network, by the bundle's tree and scales."""

    def __init__(self, labels: dict[str, Any], about: dict[str, Any]) -> None:
        self.questions = labels["questions"]
        sizes = [len(question["answers"]) for question in self.questions]
        self.answers = [f"{question['name']}_{answer}" for question in self.questions for answer in question["answers"]]
        self.owner = np.repeat(np.arange(len(sizes)), sizes)
        self.numeric: list[str] = about["numeric"]
        self.scales: dict[str, list[float | None]] = about["scales"]
        self.typical_voters = float(about["typical_voters"])

    def voters(self, counts: np.ndarray) -> np.ndarray:
        """How many answered each question, [B, Q]."""
        return np.stack([counts[:, self.owner == number].sum(1) for number in range(len(self.questions))], 1)

    def encode(self, counts: np.ndarray, numeric: np.ndarray) -> np.ndarray:
        """Features, float32 [B, F]: fractions, known and number of voters of each question, numbers and whether each is known."""
        counts, numeric = counts.astype(np.float32), numeric.astype(np.float32)
        voters = self.voters(counts)
        of_answer, known = voters[:, self.owner], np.isfinite(numeric)
        fractions = np.where(of_answer > 0, counts / np.maximum(of_answer, np.float32(1e-12)), 0)
        columns = []
        for column, name in enumerate(self.numeric):
            floor, centre, spread = self.scales[name]
            value = np.where(known[:, column], numeric[:, column], np.float32(1))
            value = value if floor is None else np.log(value + np.float32(floor))
            columns.append((value - np.float32(centre)) / np.float32(spread))  # type: ignore[arg-type]
        asked = np.log1p(voters) / math.log1p(self.typical_voters)
        parts = (fractions, voters > 0, asked, np.where(known, np.stack(columns, 1), 0), known)
        return np.concatenate([part.astype(np.float32) for part in parts], 1)


class Stretch:
    """The invertible transform between images and the network's numbers, per band."""

    def __init__(self, about: dict[str, Any]) -> None:
        self.kind: str = about["kind"]
        numbers = np.array([about[name] for name in ("softening", "gain", "offset")], np.float64)
        self.softening, self.gain, self.offset = numbers[:, :, None, None]

    def inverse(self, x: np.ndarray) -> np.ndarray:
        """Model space to images: float32 flux, or uint8 colour."""
        y = (x.astype(np.float64) - self.offset) / self.gain
        if self.kind == "flux":
            return (np.sinh(y) * self.softening).astype(np.float32)
        return ((y + 1.0) * 127.5).round().clip(0, 255).astype(np.uint8)

    def forward(self, images: np.ndarray) -> np.ndarray:
        """Images to model space, float64."""
        x = np.arcsinh(images / self.softening) if self.kind == "flux" else images / 127.5 - 1.0
        return x * self.gain + self.offset


def pictures(images: np.ndarray, frame: dict[str, Any]) -> np.ndarray:
    """Colour pictures, uint8 [B, H, W, 3], as galaxysd shows them (Lupton et al. 2004)."""
    if frame["kind"] == "rgb":
        return images.transpose(0, 2, 3, 1)
    sdss = 0.396  # arcsec
    scale = np.array([2.5, 1.5, 1.0])[:, None, None] * (sdss / (frame["pixel_scale"] or sdss)) ** 2
    colour = np.maximum(images * scale + 0.02, 0)
    mean = np.maximum(colour.mean(1, keepdims=True), 1e-9)
    colour = colour * (np.arcsinh(20.0 * mean) / 20.0**0.5 / mean)
    colour = colour / np.maximum(colour.max(1, keepdims=True), 1)
    return (colour[:, ::-1] * 255).round().astype(np.uint8).transpose(0, 2, 3, 1)


def batches(first: int, n: int, size: int) -> Iterator[range]:
    """range(first, first + n) in parts."""
    for begin in range(first, first + n, size):
        yield range(begin, min(begin + size, first + n))
