"""Layers against torch's own in float64, in every dtype and layout they are given."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F

from galaxysd import seeds
from galaxysd.model.layers import Attention, Conv, Linear, NormSiLU, Pending, Skip, laid_out
from galaxysd.train.denoise import initialise

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
DTYPES = list(TOLERANCE)


def draw(name: str, *shape: int) -> torch.Tensor:
    return seeds.normal(2, name, 0, shape)[0]


def perturbed(layer: torch.nn.Module) -> torch.nn.Module:
    """Drawn weights, away from their first values."""
    initialise(layer, 0)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            parameter += 0.2 * draw(name, *parameter.shape)
    return layer


def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.double() - wanted).norm() / wanted.norm())


@torch.no_grad()
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (1, 1)])
def test_convolution(dtype: torch.dtype, kernel: int, stride: int):
    layer, x = perturbed(Conv(5, 7, kernel, stride)), draw("x", 2, 5, 6, 6)
    found = layer(x.to(dtype))
    wanted = F.conv2d(x.double(), layer.weight.double(), layer.bias.double(), stride, kernel // 2)
    assert found.dtype is dtype
    assert layer.weight.dtype is layer.bias.dtype is torch.float32
    assert error(found, wanted) < TOLERANCE[dtype]


@torch.no_grad()
@pytest.mark.parametrize("dtype", DTYPES)
def test_linear(dtype: torch.dtype):
    layer, x = perturbed(Linear(6, 4)), draw("x", 3, 6)
    found = layer(x.to(dtype))
    assert found.dtype is dtype
    assert error(found, x.double() @ layer.weight.double().T + layer.bias.double()) < TOLERANCE[dtype]


@pytest.mark.parametrize("layer", [Conv, Linear])
def test_what_starts_at_nothing(layer):
    zero, other = layer(3, 4, zero=True), layer(3, 4)
    assert not bool(zero.weight.any() or zero.bias.any() or other.bias.any())
    assert bool(other.weight.any())


@torch.no_grad()
@pytest.mark.parametrize("dtype", DTYPES)
def test_norm_is_group_norm_affine_silu(dtype: torch.dtype):
    layer, x = perturbed(NormSiLU(24, 8)), 2 + 3 * draw("x", 2, 24, 5, 5)
    scale, shift = draw("scale", 2, 24), draw("shift", 2, 24)
    normed = F.group_norm(x.double(), 3, layer.weight.double(), layer.bias.double(), 1e-5)
    assert error(layer(x.to(dtype)), F.silu(normed)) < TOLERANCE[dtype]
    affine = normed * (1 + scale.double()[:, :, None, None]) + shift.double()[:, :, None, None]
    assert error(layer(x.to(dtype), scale.to(dtype), shift.to(dtype)), F.silu(affine)) < TOLERANCE[dtype]


def test_attention_starts_as_nothing():
    x = draw("x", 2, 16, 3, 3)
    assert torch.equal(Attention(16, 8, 8)(Pending(x)).whole(), x)


@torch.no_grad()
@pytest.mark.parametrize("dtype", DTYPES)
def test_attention_is_softmax_of_products(dtype: torch.dtype):
    """One query, one head at a time, from the weights of the projections."""
    layer, x = perturbed(Attention(16, 8, 8)), draw("x", 2, 16, 3, 3)
    wide = copy.deepcopy(layer).double()
    packed = wide.qkv(wide.norm(x.double())).flatten(2)
    mixed = torch.zeros(2, 16, 9, dtype=torch.float64)
    for galaxy in range(2):
        q, k, v = packed[galaxy].view(3, 2, 8, 9)
        for head in range(2):
            for pixel in range(9):
                weights = torch.softmax(q[head, :, pixel] @ k[head] / math.sqrt(8), 0)
                mixed[galaxy, 8 * head : 8 * head + 8, pixel] = v[head] @ weights
    assert error(layer(Pending(x.to(dtype))).whole(), x.double() + wide.out(mixed.view(2, 16, 3, 3))) < TOLERANCE[dtype]


@torch.no_grad()
@pytest.mark.parametrize("dtype", DTYPES)
def test_normed_attention_compares_directions(dtype: torch.dtype):
    """Longer queries and keys change nothing; the gain does."""
    layer, x = perturbed(Attention(16, 8, 8, qk_norm=True)), draw("x", 2, 16, 3, 3)
    before = layer(Pending(x.to(dtype))).whole()
    layer.qkv.weight[:32] *= 7
    layer.qkv.bias[:32] *= 7
    assert error(layer(Pending(x.to(dtype))).whole(), before.double()) < TOLERANCE[dtype]
    layer.qk_gain *= 3
    assert error(layer(Pending(x.to(dtype))).whole(), before.double()) > 10 * TOLERANCE[torch.float32]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_skip_of_two_maps_is_that_of_their_concatenation(dtype: torch.dtype):
    """As decoders on CUDA have it, where nobody writes the concatenation: values, layout and every gradient."""
    skip = perturbed(Skip(24, 16))
    maps = [draw(n, 2, c, 5, 3).to(dtype, memory_format=torch.channels_last).requires_grad_() for n, c in (("a", 16), ("b", 8))]
    results = []
    for sources in (maps, [torch.cat(maps, 1)]):
        out = skip(*sources)
        results.append((out, *torch.autograd.grad(out.float().square().sum(), [*maps, *skip.parameters()])))
    assert results[0][0].is_contiguous(memory_format=torch.channels_last)
    for found, wanted in zip(*results, strict=True):
        assert error(found.detach(), wanted.detach().double()) < 2 * TOLERANCE[dtype]


def test_laid_out_changes_strides_and_no_value():
    layer = torch.nn.Sequential(Conv(4, 6), torch.nn.SiLU())
    before = layer[0].weight.detach().clone()
    found = laid_out(layer, torch.channels_last)[0].weight
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert not found.is_contiguous()
    assert torch.equal(found, before)
