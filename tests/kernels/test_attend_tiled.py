"""The tiled kernels: shapes the launch table gives to them on sm_90, whose rows the interpreter takes."""

from __future__ import annotations

import pytest
import torch

from galaxysd.kernels.attend import launch_backward, launch_forward
from galaxysd.kernels.launching import INTERPRETED
from tests.kernels.attend_checks import (
    Shape,
    check_attention,
    check_derivative,
    check_large_scores,
    check_repeats,
    check_small_vectors,
    kernels,
)
from tests.kernels.bf16_dot import bf16_dot

__all__ = ["bf16_dot"]
pytestmark = pytest.mark.usefixtures("bf16_dot")

LAUNCHERS = launch_forward, launch_backward
TILES = ["attend_tiled._forward", "attend_tiled._queries", "attend_tiled._keys"]


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((1, 1, 128, 1, 1), torch.float16),
        ((2, 1, 16, 13, 11), torch.float32),
        ((1, 2, 128, 5, 7), torch.float32),
        ((1, 1, 64, 17, 19), torch.float16),
        ((1, 1, 32, 19, 17), torch.bfloat16),
        ((2, 1, 128, 9, 9), torch.bfloat16),
    ],
    ids=str,
)
def test_tiles_are_right(shape, dtype, norm):
    shape = Shape(*shape, norm)
    assert kernels(*LAUNCHERS, shape, dtype) == TILES
    check_attention(*LAUNCHERS, shape, dtype)


@pytest.mark.parametrize(("shape", "dtype"), [((1, 1, 16, 9, 9), torch.float32), ((1, 1, 128, 11, 9), torch.bfloat16)], ids=str)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # in rows of keys past the last, which are not written
def test_large_scores(shape, dtype):
    assert kernels(*LAUNCHERS, Shape(*shape), dtype) == TILES
    check_large_scores(*LAUNCHERS, Shape(*shape), dtype)


def test_small_vectors():
    check_small_vectors(*LAUNCHERS, Shape(1, 1, 16, 9, 9, True), torch.float32)


@pytest.mark.skipif(not INTERPRETED, reason="float64 needs Triton's interpreter")
@pytest.mark.parametrize("norm", [False, True])
def test_backward_is_the_derivative(norm):
    check_derivative(*LAUNCHERS, Shape(1, 1, 16, 9, 9, norm))


def test_the_same_bits_every_time():
    check_repeats(*LAUNCHERS, Shape(1, 2, 128, 10, 9, True), torch.bfloat16)
