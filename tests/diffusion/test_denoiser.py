"""Preconditioning, loss and noise law against what EDM's equations say."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from galaxysd.config import DiffusionConfig
from galaxysd.diffusion import denoiser
from galaxysd.diffusion.denoiser import Denoiser, cpu_computes_bf16, frozen, resolve_dtype, resolve_layout
from galaxysd.diffusion.loss import draw_sigma, edm_loss
from galaxysd.errors import GalaxySDError, Unavailable


class Zero(torch.nn.Module):
    """A network that says nothing, and keeps what it was shown."""

    def forward(self, x, noise, features):
        self.seen = (x, noise)
        return torch.zeros_like(x)


def test_a_silent_network_leaves_the_linear_estimate():
    """With F = 0, D = c_skip x, the best linear estimate for data of spread sigma_data."""
    model = Denoiser(Zero(), DiffusionConfig())
    x = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor([0.01, 0.1, 0.5, 3.0, 50.0])
    want = x * (0.25 / (0.25 + sigma**2))[:, None, None, None]
    assert torch.allclose(model(x, sigma, torch.zeros(5, 1)), want, rtol=1e-5)
    shown, noise = model.net.seen
    assert torch.allclose(shown, x / torch.sqrt(sigma**2 + 0.25)[:, None, None, None], rtol=1e-5)
    assert torch.allclose(noise, sigma.log() / 4)


def test_loss_of_a_silent_network_is_one_at_every_noise_level():
    """The weights of EDM make the expected loss of F = 0 exactly 1 for data of spread sigma_data."""
    draw = torch.Generator().manual_seed(1)
    for level in (0.02, 0.5, 20.0):
        x0 = 0.5 * torch.randn(64, 3, 16, 16, generator=draw)
        noise = torch.randn(64, 3, 16, 16, generator=draw)
        loss = edm_loss(Denoiser(Zero(), DiffusionConfig()), x0, torch.zeros(64, 1), torch.full((64,), level), noise)
        assert float(loss.mean()) == pytest.approx(1.0, abs=0.03)


def test_noise_levels_follow_their_law_and_no_batch_size():
    config = DiffusionConfig(p_mean=-0.7, p_std=1.1)
    logs = torch.cat([draw_sigma(config, 3, step, torch.arange(64), 64).log() for step in range(200)])
    assert float(logs.mean()) == pytest.approx(-0.7, abs=0.02)
    assert float(logs.std()) == pytest.approx(1.1, abs=0.03)
    whole = draw_sigma(config, 3, 9, torch.arange(64), 64)
    assert torch.equal(torch.cat([draw_sigma(config, 3, 9, torch.arange(first, first + 16), 64) for first in range(0, 64, 16)]), whole)


def test_precision_is_decided_once(tmp_path: Path):
    net = torch.nn.Conv2d(3, 3, 1)
    seen = []
    net.register_forward_hook(lambda module, inputs, out: seen.append(inputs[0].dtype))
    model = Denoiser(_Wrapped(net), DiffusionConfig(), torch.bfloat16)
    out = frozen(model)(torch.zeros(1, 3, 2, 2), torch.ones(1), torch.zeros(1, 1))
    assert out.dtype is torch.float32
    assert net.weight.dtype is torch.float32  # the original keeps its weights
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("flags\t: fpu avx2 avx512f avx512_bf16\n")
    assert cpu_computes_bf16(cpuinfo)
    cpuinfo.write_text("flags\t: fpu avx2 avx512f\n")
    assert not cpu_computes_bf16(cpuinfo)
    assert resolve_dtype("bf16", torch.device("cpu")) is torch.bfloat16
    assert math.isfinite(float(out.sum()))


@pytest.mark.parametrize(
    ("name", "device", "dtype", "wanted"),
    [
        ("auto", "cpu", torch.float32, torch.channels_last),
        ("auto", "cpu", torch.bfloat16, torch.contiguous_format),
        ("auto", "cuda", torch.bfloat16, torch.channels_last),
        ("nchw", "cpu", torch.float32, torch.contiguous_format),
        ("nhwc", "cpu", torch.bfloat16, torch.channels_last),
    ],
)
def test_layout_follows_device_and_precision(name, device, dtype, wanted):
    assert resolve_layout(name, torch.device(device), dtype) is wanted


def test_the_layout_no_kernel_reads_is_refused():
    with pytest.raises(GalaxySDError, match=r"train.layout: nchw on cuda; its kernels read nhwc"):
        resolve_layout("nchw", torch.device("cuda"), torch.bfloat16)


def test_a_card_the_kernels_cannot_run_on_is_said(monkeypatch):
    """Here is none, so its answers are put in torch's mouth."""
    monkeypatch.setattr(denoiser.torch, "empty", lambda *size, device=None: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "Old Card")
    denoiser.unready.cache_clear()
    with pytest.raises(Unavailable, match=r"device cuda: Old Card has compute capability 7.5; kernels are built for 8.0.*or use cpu"):
        denoiser.resolve_device("cuda")
    denoiser.unready.cache_clear()


class _Wrapped(torch.nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, noise, features):
        return torch.nn.functional.conv2d(x, self.net.weight.to(x.dtype), self.net.bias.to(x.dtype))
