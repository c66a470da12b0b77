"""The denoiser D(x; sigma): a network under the preconditioning of EDM (Karras et al. 2022, equation 7).

Outside float32, inside the resolved dtype: this is the one place where precision is decided.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import Tensor, nn

from galaxysd.config import DiffusionConfig
from galaxysd.errors import GalaxySDError, Unavailable, nearest
from galaxysd.kernels.launching import unready
from galaxysd.model.layers import laid_out

DEVICES = ("cpu", "cuda")


class Denoiser(nn.Module):
    """Gives the expected clean image of x [B, C, H, W] at noise level sigma [B] under condition features [B, F]; float32 in and out."""

    def __init__(self, net: nn.Module, config: DiffusionConfig, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.net = net
        self.config = config
        self.dtype = dtype
        self.layout = torch.contiguous_format

    def forward(self, x: Tensor, sigma: Tensor, features: Tensor) -> Tensor:
        s, d = sigma.float()[:, None, None, None], self.config.sigma_data
        spread = s**2 + d**2
        inside = (x * spread.rsqrt()).to(self.dtype, memory_format=self.layout)  # c_in
        f = self.net(inside, sigma.float().log() / 4, features).float()  # c_noise
        return x * (d**2 / spread) + f * (s * d * spread.rsqrt())  # c_skip, c_out


def frozen(denoiser: Denoiser) -> Denoiser:
    """The same denoiser to sample from: weights in the network's dtype once, no gradients; the original is untouched."""
    copied = copy.deepcopy(denoiser).eval().requires_grad_(False)
    # Norm weights are read in float32 by the fused norm, and cost nothing.
    for module in copied.net.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.to(copied.dtype)
    laid_out(copied.net, copied.layout)
    return copied


def resolve_device(name: str | torch.device) -> torch.device:
    """The device of that name, if this machine has it."""
    device: torch.device | None
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in DEVICES:
        raise GalaxySDError(f"device {name}: no such device{nearest(str(name), DEVICES)}")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise Unavailable(f"device {name}: not on this machine ({reason}); use cpu, and galaxysd doctor says what works") from error
    lacking = unready(device) if device.type == "cuda" else None
    if lacking is not None:
        raise Unavailable(f"device {name}: {lacking}; or use cpu")
    return device


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 on CUDA and on CPUs that compute in it, else float32: bf16 on plain AVX2 is 30 times slower."""
    if name == "auto":
        name = "bf16" if device.type == "cuda" or cpu_computes_bf16() else "fp32"
    return {"bf16": torch.bfloat16, "fp32": torch.float32}[name]


def resolve_layout(name: str, device: torch.device, dtype: torch.dtype) -> torch.memory_format:
    """`auto` is NHWC on CUDA and for float32 on CPU; bfloat16 on CPU trains faster in NCHW (`python -m benchmarks` measures it)."""
    if name == "auto":
        name = "nhwc" if device.type == "cuda" or dtype is torch.float32 else "nchw"
    if device.type == "cuda" and name == "nchw":
        raise GalaxySDError("train.layout: nchw on cuda; its kernels read nhwc: use auto or nhwc, or the cpu")
    return {"nhwc": torch.channels_last, "nchw": torch.contiguous_format}[name]


def cpu_computes_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this CPU multiplies bfloat16 in hardware."""
    if not cpuinfo.exists():
        return False
    flags = next((line for line in cpuinfo.read_text().splitlines() if line.startswith("flags")), "").split()
    return bool({"avx512_bf16", "amx_bf16"} & set(flags))
