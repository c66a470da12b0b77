"""Attention against its definition: values, gradients, both layouts, and the contract of a torch op."""

from __future__ import annotations

import pytest
import torch

from galaxysd.kernels import attention
from galaxysd.kernels.attend import _forward, reference

LAYOUTS = [torch.contiguous_format, torch.channels_last]


def packed(batch, heads, width, height, columns, dtype, layout):
    draw = torch.Generator().manual_seed(1)
    return torch.randn(batch, 3 * heads * width, height, columns, generator=draw, dtype=torch.float64).to(dtype, memory_format=layout)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 1.5e-2)])
@pytest.mark.parametrize(("batch", "heads", "width", "height", "columns"), [(2, 1, 64, 8, 8), (1, 2, 16, 5, 3), (3, 3, 8, 1, 1)])
def test_values_and_gradients(batch, heads, width, height, columns, dtype, tolerance, layout):
    qkv = packed(batch, heads, width, height, columns, dtype, layout)
    got, want = qkv.clone().requires_grad_(), qkv.double().requires_grad_()
    y, truth = attention(got, heads), reference(want, heads)
    cotangent = torch.randn(truth.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    y.backward(cotangent.to(dtype))
    truth.backward(cotangent)
    assert (y.double() - truth).norm() / truth.norm() < tolerance
    assert (got.grad.double() - want.grad).norm() / want.grad.norm() < 2 * tolerance
    assert y.is_contiguous(memory_format=layout)


def test_large_scores_do_not_overflow():
    qkv = packed(1, 1, 8, 4, 4, torch.float32, torch.contiguous_format) * 100
    assert torch.allclose(attention(qkv, 1), reference(qkv.double(), 1).float(), atol=1e-3)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_op_contract_and_gradcheck(layout):
    qkv = packed(2, 2, 4, 3, 2, torch.float64, layout).requires_grad_()
    torch.library.opcheck(_forward, (qkv, 2))
    assert torch.autograd.gradcheck(lambda t: attention(t, 2), [qkv])


def test_what_does_not_fit_is_said():
    with pytest.raises(ValueError, match="20 channels do not divide into queries, keys and values of 2 heads"):
        attention(torch.zeros(1, 20, 4, 4), 2)
