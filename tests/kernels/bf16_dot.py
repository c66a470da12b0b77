"""Mends what Triton's interpreter does to bfloat16, so that a bfloat16 kernel can be judged without a card.

Its matrix product multiplies the bit patterns as if they were integers, and its conversion from float32 cuts where a card rounds to the
nearest. `tests/kernels/test_attend.py` fails when the first is no longer so.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("triton", reason="needs triton")

from triton import language as tl
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

PLAIN_DOT, PLAIN_TRUNC = InterpreterBuilder.create_dot, InterpreterBuilder.create_fp_trunc


def _widened(handle: Any) -> Any:
    """A bfloat16 operand as float32, which holds it exactly; any other as it is."""
    if handle.dtype.scalar != tl.bfloat16:
        return handle
    return SimpleNamespace(data=(handle.data.astype(np.uint32) << 16).view(np.float32), dtype=tl.float32)


def create_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
    return PLAIN_DOT(self, _widened(a), _widened(b), *rest)


def create_fp_trunc(self: Any, src: Any, dst_type: Any) -> Any:
    if src.dtype.scalar != tl.float32 or dst_type.scalar != tl.bfloat16:
        return PLAIN_TRUNC(self, src, dst_type)
    bits = src.data.view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    quiet = ((bits >> 16) | 0x40).astype(np.uint16)
    return TensorHandle(np.where(np.isnan(src.data), quiet, rounded), tl.bfloat16)


@pytest.fixture
def bf16_dot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a test, bfloat16 in the interpreter is as on a card."""
    monkeypatch.setattr(InterpreterBuilder, "create_dot", create_dot)
    monkeypatch.setattr(InterpreterBuilder, "create_fp_trunc", create_fp_trunc)
