"""GroupNorm-SiLU against its definition: values, every gradient, both layouts, and the contract of a torch op."""

from __future__ import annotations

import pytest
import torch

from galaxysd.kernels import group_norm_silu, norm

SHAPES = [(2, 16, 4, 4, 2), (3, 24, 5, 7, 3), (1, 8, 1, 1, 1), (2, 64, 8, 8, 8)]


def inputs(shape, dtype, adaptive, layout, seed=0):
    batch, channels, height, width, groups = shape
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, channels, height, width, generator=draw, dtype=torch.float64) * 2 + 1
    weight, bias = (torch.randn(channels, generator=draw, dtype=torch.float64) for _ in range(2))
    scale, shift = (torch.randn(batch, channels, generator=draw, dtype=torch.float64) for _ in range(2))
    parameters = torch.float32 if dtype is torch.bfloat16 else dtype
    x = x.to(dtype, memory_format=layout)
    weight, bias = weight.to(parameters), bias.to(parameters)
    return [x, weight, bias, *((scale.to(dtype), shift.to(dtype)) if adaptive else (None, None))], groups


def run(function, tensors, groups, wide):
    leaves = [t if t is None else (t.double() if wide else t).detach().requires_grad_() for t in tensors]
    y = function(leaves[0], leaves[1], leaves[2], groups, leaves[3], leaves[4])
    cotangent = torch.randn(y.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    y.backward(cotangent.to(y.dtype))
    return [y, *(leaf.grad for leaf in leaves if leaf is not None)]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 1.5e-2)])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients(shape, dtype, tolerance, adaptive, layout):
    if shape[2] * shape[3] * shape[1] // shape[4] < 16:
        tolerance *= 20  # a group of a few values divides by its own small spread
    tensors, groups = inputs(shape, dtype, adaptive, layout)
    found = run(group_norm_silu, tensors, groups, wide=False)
    wanted = run(norm.reference, tensors, groups, wide=True)
    for name, got, want in zip(("y", "dx", "dweight", "dbias", "dscale", "dshift"), found, wanted, strict=False):
        error = (got.double() - want).norm() / want.norm().clamp_min(1e-3)
        assert error < tolerance, f"{name}: relative error {error:.2e}"
    assert found[0].is_contiguous(memory_format=layout)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("adaptive", [False, True])
def test_op_contract(adaptive, layout):
    tensors, groups = inputs((2, 16, 4, 3, 2), torch.float32, adaptive, layout)
    tensors = [t if t is None else t.requires_grad_() for t in tensors]
    x, weight, bias, scale, shift = tensors
    torch.library.opcheck(norm._forward, (x, None, None, weight, bias, scale, shift, None, groups, 1e-5, "none", 0.0))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradcheck(layout):
    tensors, groups = inputs((2, 8, 3, 2, 2), torch.float64, True, layout)
    leaves = [t.requires_grad_() for t in tensors]
    assert torch.autograd.gradcheck(lambda x, w, b, s, t: group_norm_silu(x, w, b, groups, s, t), leaves)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"groups": 5}, "16 channels do not divide into 5 groups"),
        ({"weight": torch.ones(8)}, r"weight \(8,\)"),
        ({"scale": torch.zeros(2, 16)}, "come together"),
        ({"scale": torch.zeros(2, 8), "shift": torch.zeros(2, 8)}, r"must be \(2, 16\)"),
        ({"x": torch.zeros(2, 16, 4)}, "3 dimensions"),
    ],
)
def test_what_does_not_fit_is_said(change, words):
    arguments = {"x": torch.zeros(2, 16, 4, 4), "weight": torch.ones(16), "bias": torch.zeros(16), "groups": 4} | change
    with pytest.raises(ValueError, match=words):
        group_norm_silu(**arguments)
