"""The one-program kernels: shapes the launch table gives to them on sm_90, whose rows the interpreter takes."""

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
ONE_PROGRAM = ["attend_short._forward", "attend_short._backward"]


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((2, 2, 16, 5, 3), torch.float32),
        ((1, 1, 64, 1, 1), torch.float32),
        ((1, 3, 32, 8, 8), torch.float16),
        ((2, 1, 64, 1, 1), torch.bfloat16),
        ((1, 2, 64, 7, 9), torch.bfloat16),
        ((1, 1, 64, 13, 13), torch.float16),
        ((1, 2, 32, 16, 16), torch.bfloat16),
    ],
    ids=str,
)
def test_one_program_is_right(shape, dtype, norm):
    shape = Shape(*shape, norm)
    assert kernels(*LAUNCHERS, shape, dtype) == ONE_PROGRAM
    check_attention(*LAUNCHERS, shape, dtype)


@pytest.mark.parametrize(("shape", "dtype"), [((1, 1, 16, 5, 3), torch.float32), ((1, 1, 64, 11, 9), torch.bfloat16)], ids=str)
def test_large_scores(shape, dtype):
    assert kernels(*LAUNCHERS, Shape(*shape), dtype) == ONE_PROGRAM
    check_large_scores(*LAUNCHERS, Shape(*shape), dtype)


def test_small_vectors():
    check_small_vectors(*LAUNCHERS, Shape(2, 2, 16, 5, 3, True), torch.float32)


@pytest.mark.skipif(not INTERPRETED, reason="float64 needs Triton's interpreter")
@pytest.mark.parametrize("norm", [False, True])
def test_backward_is_the_derivative(norm):
    check_derivative(*LAUNCHERS, Shape(2, 2, 16, 5, 4, norm))


def test_the_same_bits_every_time():
    check_repeats(*LAUNCHERS, Shape(2, 1, 32, 10, 9, True), torch.bfloat16)
