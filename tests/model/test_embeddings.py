"""The vector of noise level and conditions: frequencies as stated, levels kept apart, the parts joined as written."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from galaxysd import seeds
from galaxysd.model.embeddings import Embedding, NoiseEmbedding
from galaxysd.train.denoise import initialise


def test_waves_run_from_a_quarter_to_64_turns():
    frequencies = NoiseEmbedding(64).frequencies / (2 * math.pi)
    assert float(frequencies[0]) == pytest.approx(0.25)
    assert float(frequencies[-1]) == pytest.approx(64)
    steps = frequencies[1:] / frequencies[:-1]
    assert torch.allclose(steps, steps[0].expand_as(steps), rtol=1e-4)
    noise = torch.tensor([-1.3, 0.0, 0.7])
    waves = NoiseEmbedding(64)(noise)
    for column in (0, 17, 31):
        angle = 2 * math.pi * float(frequencies[column]) * noise
        assert torch.allclose(waves[:, column], angle.cos(), atol=1e-4)
        assert torch.allclose(waves[:, 32 + column], angle.sin(), atol=1e-4)


def test_bf16_hears_the_same_noise_levels():
    """The angle is taken in float32: bfloat16 has 3 digits, and the fastest wave turns through 400 radians a unit."""
    sigma = torch.logspace(math.log10(0.002), math.log10(80), 50)
    net = Embedding(4, 32).requires_grad_(False)
    initialise(net, 0)
    fp32, bf16 = (net(sigma.log() / 4, torch.zeros(50, 4), dtype) for dtype in (torch.float32, torch.bfloat16))
    assert bf16.dtype is torch.bfloat16
    assert float((bf16.float() - fp32).norm() / fp32.norm()) < 0.02


def test_the_parts_are_joined_as_written():
    net, noise = Embedding(5, 8), torch.tensor([0.3, -0.2])
    features = seeds.normal(0, "features", range(2), (5,))
    with torch.no_grad():
        for number, parameter in enumerate(net.parameters()):
            parameter.copy_(seeds.normal(0, "weights", number, parameter.shape)[0])
        layers = (net.condition_in, net.condition_out, net.noise_in, net.out)
        (ci, cib), (co, cob), (ni, nib), (o, ob) = ((layer.weight.double(), layer.bias.double()) for layer in layers)
        condition = F.silu(features.double() @ ci.T + cib) @ co.T + cob
        wanted = F.silu(F.silu(net.noise(noise).double() @ ni.T + nib + condition) @ o.T + ob)
        found = net(noise, features, torch.float32)
    assert torch.allclose(found.double(), wanted, rtol=1e-4, atol=1e-5)
