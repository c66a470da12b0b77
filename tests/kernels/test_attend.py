"""Attention against its definition: the op on a CPU, the launchers on drawn shapes, the contracts of op, launch table and layout."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from galaxysd.kernels import attention, launching, lowered
from galaxysd.kernels.attend import CLASSES, _backward, _forward, by_torch, launch_backward, launch_forward, reference
from galaxysd.kernels.launching import INTERPRETED
from tests.kernels import bf16_dot as mended
from tests.kernels.attend_checks import (
    DEVICE,
    TOLERANCE,
    Shape,
    check_attention,
    check_repeats,
    check_strides,
    errors,
    inputs,
    kernels,
    named,
    truth,
)
from tests.kernels.bf16_dot import bf16_dot

__all__ = ["bf16_dot"]
LAUNCHERS = launch_forward, launch_backward
LAYOUTS = [torch.contiguous_format, torch.channels_last]
triton, tl = launching.triton, launching.tl


def on_cpu(shape: Shape, dtype: torch.dtype, layout: torch.memory_format) -> tuple[Tensor, Tensor, Tensor | None]:
    qkv, dout, gain = inputs(shape, dtype, "cpu")
    gain = None if gain is None else gain.requires_grad_()
    return qkv.contiguous(memory_format=layout).requires_grad_(), dout.contiguous(memory_format=layout), gain


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 1, 64, 8, 8), (1, 2, 16, 5, 3, True), (3, 3, 8, 1, 2), (2, 2, 10, 7, 3, True)], ids=str)
def test_values_and_gradients_on_a_cpu(shape, dtype, layout):
    shape = Shape(*shape)
    qkv, dout, gain = on_cpu(shape, dtype, layout)
    out = attention(qkv, shape.heads, gain)
    out.backward(dout)
    found = named(out.detach(), qkv.grad, None if gain is None else gain.grad)
    for name, error in errors(found, truth(qkv, dout, shape.heads, None if gain is None else gain.detach())).items():
        assert error <= TOLERANCE[dtype], f"{name} is off by {error:.2e} of its norm"
    assert out.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_launchers_are_right_on_drawn_shapes(dtype, bf16_dot):
    hypothesis = pytest.importorskip("hypothesis", reason="needs hypothesis to draw shapes")
    draw = hypothesis.strategies

    @hypothesis.settings(max_examples=12)
    @hypothesis.given(
        draw.integers(0, 3), draw.integers(1, 3), draw.sampled_from([16, 32, 64]), draw.integers(1, 9), draw.integers(1, 9), draw.booleans()
    )
    @hypothesis.example(2, 1, 64, 1, 1, True)
    @hypothesis.example(0, 2, 16, 3, 5, True)
    @hypothesis.example(1, 1, 128, 3, 11, True)
    def right(batch, heads, d, height, width, norm):
        check_attention(*LAUNCHERS, Shape(batch, heads, d, height, width, norm), dtype)

    right()


@pytest.mark.parametrize("shape", [(2, 1, 16, 5, 3, True), (2, 1, 128, 3, 5)], ids=str)
def test_gradients_of_any_strides_are_read_as_they_lie(shape):
    check_strides(*LAUNCHERS, Shape(*shape), torch.float32)


@pytest.mark.gpu
@pytest.mark.parametrize("d", [32, 64, 128])
@pytest.mark.parametrize("side", [8, 16, 32])
def test_the_largest_of_each_class_on_a_card(side, d):
    shape = Shape(4, 3, d, side, side, True)
    check_attention(*LAUNCHERS, shape, torch.bfloat16)
    check_repeats(*LAUNCHERS, shape, torch.bfloat16, 100)


@pytest.mark.gpu
def test_the_op_on_a_card_eager_and_compiled():
    shape = Shape(2, 2, 32, 16, 16, True)
    qkv, dout, gain = inputs(shape, torch.bfloat16)
    leaves = qkv.requires_grad_(), gain.requires_grad_()
    for function in (attention, torch.compile(attention, fullgraph=True)):
        out = function(qkv, shape.heads, gain)
        gradients = torch.autograd.grad(out, leaves, dout)
        for name, error in errors(named(out, *gradients), truth(qkv, dout, shape.heads, gain.detach())).items():
            assert error <= TOLERANCE[torch.bfloat16], f"{name} is off by {error:.2e} of its norm"


def test_the_way_of_large_maps_is_the_definition():
    for shape in (Shape(2, 2, 16, 5, 3, True), Shape(1, 1, 8, 4, 4)):
        for layout in LAYOUTS:
            qkv, _, gain = on_cpu(shape, torch.float64, layout)
            out = by_torch(qkv, shape.heads, gain)
            assert torch.allclose(out, reference(qkv, shape.heads, gain), atol=1e-12)
            assert out.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("norm", [False, True])
def test_large_scores_do_not_overflow(norm):
    qkv, _, gain = on_cpu(Shape(1, 1, 8, 4, 4, norm), torch.float32, torch.contiguous_format)
    wanted = reference(qkv.double() * 100, 1, None if gain is None else gain.double())
    assert torch.allclose(attention(qkv * 100, 1, gain), wanted.float(), atol=1e-3)


def test_one_pixel_passes_its_value_on():
    qkv, dout, _ = on_cpu(Shape(2, 3, 16, 1, 1), torch.float32, torch.channels_last)
    out = attention(qkv, 3)
    out.backward(dout)
    assert torch.allclose(out, qkv[:, 96:])
    assert torch.allclose(qkv.grad, torch.cat([torch.zeros(2, 96, 1, 1), dout], 1), atol=1e-5)


@pytest.mark.parametrize(("layout", "norm"), [(LAYOUTS[0], False), (LAYOUTS[1], True)])
def test_op_contract_and_gradcheck(layout, norm):
    qkv, dout, gain = on_cpu(Shape(2, 2, 4, 3, 2, norm), torch.float64, layout)
    torch.library.opcheck(_forward, (qkv, 2, gain))
    fixed = None if gain is None else gain.detach()
    out, total = _forward(qkv.detach(), 2, fixed)
    torch.library.opcheck(_backward, (dout, qkv.detach(), out, total, 2, fixed))
    assert torch.autograd.gradcheck(lambda q, g: attention(q, 2, g), [qkv, gain])


# Torch's own, while it compiles.
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
def test_compiled_is_eager():
    qkv, dout, gain = on_cpu(Shape(2, 2, 16, 4, 4, True), torch.float32, torch.channels_last)
    leaves = qkv, gain
    eager = attention(qkv, 2, gain)
    compiled = torch.compile(attention, fullgraph=True)(qkv, 2, gain)
    assert torch.allclose(compiled, eager, rtol=1e-5, atol=1e-6)
    assert compiled.stride() == eager.stride()
    for a, b in zip(torch.autograd.grad(compiled, leaves, dout), torch.autograd.grad(eager, leaves, dout), strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-5)


def test_lowered_is_the_definition():
    qkv, _, gain = on_cpu(Shape(2, 2, 16, 4, 4, True), torch.float32, torch.channels_last)
    with lowered():
        assert torch.equal(attention(qkv, 2, gain), reference(qkv, 2, gain))


def test_every_row_is_taken_and_every_class_has_rows():
    taken = set()
    for capability in launching.capabilities():
        for n, d in CLASSES.values():
            for dtype in (torch.bfloat16, torch.float16, torch.float32):
                qkv, dout, _ = inputs(Shape(1, 2, d, n // 8, 8), dtype, "meta")
                with launching.recorded(capability) as launches:
                    launch_backward(dout, qkv, *launch_forward(qkv, 2), 2)
                taken |= {(each.row.op, each.row.shape, each.row.dtype, each.row.capability) for each in launches}
    assert taken == {key for key in launching.rows() if key[0].startswith("attention_")}


@pytest.mark.parametrize(
    ("shape", "capability", "wanted"),
    [
        ((1, 1, 64, 16, 16), 90, ["attend_short._forward", "attend_short._backward"]),
        ((1, 1, 64, 16, 16), 89, ["attend_tiled._forward", "attend_tiled._queries", "attend_tiled._keys"]),
        ((1, 1, 64, 32, 32), 90, ["attend_tiled._forward", "attend_tiled._queries", "attend_tiled._keys"]),
    ],
)
def test_the_table_says_which_kernels(shape, capability, wanted):
    assert kernels(*LAUNCHERS, Shape(*shape), torch.bfloat16, capability) == wanted


def test_torch_finds_the_kernels_of_both_ops():
    """What torch's compile cache depends on; in a process of its own, for in the interpreter nothing is a kernel."""
    code = """
from galaxysd.kernels import attend
from torch._library.triton import get_triton_kernels_for_op as found
print(*(len(found(f"galaxysd::{op}")) for op in ("attention", "attention_backward")))"""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    root = Path(__file__).parent.parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True, check=True, timeout=100)
    assert done.stdout.split() == ["2", "3"]


@triton.jit
def _product(x_ptr, y_ptr, out_ptr, N: tl.constexpr):
    where = tl.arange(0, N)[:, None] * N + tl.arange(0, N)[None, :]
    tl.store(out_ptr + where, tl.dot(tl.load(x_ptr + where), tl.load(y_ptr + where)))


@pytest.mark.skipif(not INTERPRETED, reason="about Triton's interpreter, which is off")
def test_the_interpreter_still_needs_mending_and_is_mended(monkeypatch):
    x = torch.linspace(-2, 2, 256).reshape(16, 16).to(torch.bfloat16)
    out, wanted = torch.empty(16, 16), x.float() @ x.float()
    _product[(1,)](x, x, out, N=16)
    assert not torch.allclose(out, wanted, rtol=1e-2), "Triton's interpreter multiplies bfloat16 now: tests/kernels/bf16_dot.py can go"
    monkeypatch.setattr(mended.InterpreterBuilder, "create_dot", mended.create_dot)
    _product[(1,)](x, x, out, N=16)
    assert torch.allclose(out, wanted, rtol=1e-5)


@pytest.mark.skipif(not INTERPRETED, reason="about Triton's interpreter, which is off")
def test_the_tests_of_launchers_are_mended(bf16_dot):
    assert mended.InterpreterBuilder.create_dot is mended.create_dot
    assert mended.InterpreterBuilder.create_fp_trunc is mended.create_fp_trunc


@pytest.mark.parametrize(
    ("shape", "heads", "gain", "words"),
    [
        ((1, 20, 4), 2, None, "qkv has 3 dimensions"),
        ((1, 20, 4, 4), 2, None, "20 channels do not divide into queries, keys and values of 2 heads"),
        ((1, 24, 4, 4), 0, None, "24 channels do not divide into queries, keys and values of 0 heads"),
        ((1, 24, 0, 4), 2, None, "no channels or no pixels; only the batch may be empty"),
        ((1, 24, 4, 4), 2, torch.ones(8), r"qk_gain is \[8\] of torch.float32; \[4\] of torch.float32 expected"),
        ((1, 24, 4, 4), 2, torch.ones(4, dtype=torch.bfloat16), r"qk_gain is \[4\] of torch.bfloat16; \[4\] of torch.float32 expected"),
    ],
)
def test_what_does_not_fit_is_said(shape, heads, gain, words):
    with pytest.raises(ValueError, match=words):
        attention(torch.zeros(shape), heads, gain)


@pytest.mark.parametrize(
    ("qkv", "words"),
    [
        (torch.zeros(1, 24, 4, 4), r"8 channels over 1 heads are 8 a head; choose heads to have one of \(16, 32, 64, 128\)"),
        (torch.zeros(1, 48, 4, 4, dtype=torch.int32), "bfloat16, float16 or float32, not torch.int32; cast qkv"),
        (torch.zeros(1, 48, 4, 4), r"is not channels_last; use qkv.contiguous\(memory_format=torch.channels_last\)"),
        (torch.zeros(1, 96, 4, 4).to(memory_format=torch.channels_last)[:, :48], "is not channels_last"),
        (torch.zeros(1, 48, 33, 32).to(memory_format=torch.channels_last), "1056 pixels, 1024 at most"),
    ],
)
def test_what_the_kernels_do_not_take_is_said(qkv, words):
    with pytest.raises(ValueError, match=words):
        launch_forward(qkv.to(DEVICE), 1)
