"""The generator's side of training: from a batch of galaxies to the diffusion loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from galaxysd import checkpoint, seeds
from galaxysd.config import Config, ModelConfig
from galaxysd.data import conditions, transforms
from galaxysd.data.galaxies import Frame, Galaxies
from galaxysd.data.schema import schema
from galaxysd.diffusion.denoiser import Denoiser, resolve_dtype
from galaxysd.diffusion.loss import draw_sigma, edm_loss
from galaxysd.distributed import Share
from galaxysd.errors import GalaxySDError, nearest
from galaxysd.model.blocks import ResBlock
from galaxysd.model.unet import UNet
from galaxysd.sample.generate import Settings


class DenoiseTask:
    """Learns to denoise galaxies under their conditions."""

    kind = "denoiser"
    blocks: tuple[type[nn.Module], ...] = (ResBlock,)

    def __init__(
        self, config: Config, frame: Frame, stretch: transforms.Stretch, device: torch.device,
        weights: Mapping[str, Tensor] | None = None, origin: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """`weights` to start from instead of drawn ones, and what they are of."""
        check_frame(config.model, frame)
        self.weights, self.origin = weights, origin
        Settings.of(config.sample)  # refused now, not by the grid at the end of the run
        self.config, self.frame, self.stretch, self.device = config, frame, stretch, device
        self.schema = schema(config.condition.schema)
        self.dtype = resolve_dtype(config.train.dtype, device)
        if config.train.only:
            with torch.device("meta"):
                trainable(UNet(config.model, conditions.width(self.schema)), config.train.only)  # a wrong name is refused now

    def build(self) -> nn.Module:
        """The network to train, with weights drawn from the run's seed or those it starts from."""
        net = UNet(self.config.model, conditions.width(self.schema))
        if self.weights is None:
            initialise(net, self.config.train.seed)
        else:
            checkpoint.fill(net, self.weights, "the model to start from")
        return trainable(net, self.config.train.only).to(self.device)

    def about(self) -> dict[str, Any]:
        """What a checkpoint's header says beside config and training data."""
        about: dict[str, Any] = {"stretch": self.stretch.to_json(), "frame": self.frame.to_json()}
        return about if self.origin is None else about | {"from": dict(self.origin)}

    def objective(self, net: nn.Module, layout: torch.memory_format) -> nn.Module:
        """The loss of what `prepare` gives, on the device."""
        denoiser = Denoiser(net, self.config.diffusion, self.dtype)
        denoiser.layout = layout
        return Objective(denoiser)

    def prepare(self, galaxies: Galaxies, step: int, share: Share) -> tuple[Tensor, ...]:
        """Images, features, noise levels and noise of a batch, or of a share of it: positions step * B ... of the run's stream."""
        seed, place = self.config.train.seed, share.places()
        position = place + step * share.batch
        x0 = self.stretch.forward(galaxies.images)
        if self.config.train.flips:
            x0 = transforms.symmetry(x0, transforms.codes(seed, "train-symmetry", position, self.config.train.aligned))
        known = conditions.dropped(conditions.of(galaxies), self.config.condition, seed, position, self.schema)
        features = conditions.encode(known, self.schema)
        sigma = draw_sigma(self.config.diffusion, seed, step, place, share.batch)
        return x0, features, sigma, seeds.normal(seed, "train-noise", position, x0.shape[1:])


class Objective(nn.Module):
    """The mean loss of x0 [B, C, S, S] under features [B, F], at noise levels sigma [B] of this noise: the region that is compiled."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, x0: Tensor, features: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
        return edm_loss(self.denoiser, x0, features, sigma, noise).mean()


def trainable(net: nn.Module, only: Sequence[str]) -> nn.Module:
    """Freezes every parameter whose name begins with none of `only`; an empty list freezes none."""
    for prefix in only:
        if not any(name.startswith(prefix) for name, _ in net.named_parameters()):
            known = sorted({name.split(".")[0] for name, _ in net.named_parameters()})
            raise GalaxySDError(f"train.only: no parameter's name begins with {prefix!r}{nearest(prefix, known)}")
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(not only or name.startswith(tuple(only)))
    return net


def check_frame(model: ModelConfig, frame: Frame) -> None:
    """Refuses images of another size or number of bands than the network's."""
    if frame.size != model.image_size:
        raise GalaxySDError(
            f"model.image_size: {model.image_size}, the images are {frame.size} pixels on a side; "
            f"use --set model.image_size={frame.size} or another preset"
        )
    if len(frame.bands) != model.image_channels:
        raise GalaxySDError(
            f"model.image_channels: {model.image_channels}, the images have {len(frame.bands)} bands "
            f"({', '.join(frame.bands)}); use --set model.image_channels={len(frame.bands)}"
        )


def initialise(net: nn.Module, seed: int) -> None:
    """Draws every weight anew from counters: He-uniform for matrices and kernels that do not start at zero, by name."""
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if parameter.ndim < 2 or not bool(parameter.any()):
                continue
            fan_in = parameter[0].numel()
            draw = seeds.uniform(seed, f"weights {name}", 0, (parameter.numel(),)).view(parameter.shape)
            parameter.copy_((2 * draw - 1) * (3.0 / fan_in) ** 0.5)
