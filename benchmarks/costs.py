"""What a preset costs, counted on tensors without data at the preset's own batch; and the rate that follows from a card's ceilings.

Matrix products and convolutions run at a ceiling of TFLOP/s, all else at a ceiling of bytes a second, one after the other:

    seconds of an image = GFLOP / ceiling + GB outside products / bandwidth
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import alone
from benchmarks.counting import ATTENTIONS, Held, Traffic
from galaxysd.config import Config
from galaxysd.data import conditions
from galaxysd.data.schema import schema
from galaxysd.diffusion.denoiser import Denoiser, frozen
from galaxysd.diffusion.loss import edm_loss
from galaxysd.model.classifier import Classifier, concentrations, vote_loss
from galaxysd.model.layers import Conv, laid_out
from galaxysd.model.unet import UNet

CLASSIFIERS = ("judge-32",)
STATE = 16  # bytes of a parameter between steps: weight, two moments, EMA, in float32
# And those that clipping (reads, reads, writes), AdamW (reads 4, writes 3) and EMA (reads 2, writes 1) move in a step.
OPTIMISED = 4 * (3 + 7 + 3)
FEW, MORE = 2, 4  # images, from which what a step moves at any batch follows


@dataclass(frozen=True)
class Cost:
    """Of a preset; bytes and FLOPs are of one image where nothing else is said."""

    name: str
    parameters: int
    dtype: torch.dtype
    batch: int  # of a train step
    gflop: float  # forward
    convolutions: float  # the share of them in it, 1x1 ones included
    forward_bytes: float  # outside products, while sampling
    train_bytes: float
    step_bytes: float  # of a whole step whatever its batch: weights in another dtype, clipping, AdamW, EMA
    train_held: int  # at most in a train step, weights and all
    unit: int
    passes: int  # of an image that is sampled; 1 for a classifier, whose unit is a batch
    unit_held: int

    def train_rate(self, tflops: float, gb_per_s: float) -> float:
        """Images a second."""
        moved = self.train_bytes + self.step_bytes / self.batch
        return 1 / (3 * self.gflop / (1e3 * tflops) + moved / (1e9 * gb_per_s))

    def sample_rate(self, tflops: float, gb_per_s: float, passes: int | None = None) -> float:
        """Images a second, in as many passes as the preset's own sampler takes, or others."""
        return 1 / ((passes or self.passes) * (self.gflop / (1e3 * tflops) + self.forward_bytes / (1e9 * gb_per_s)))


@dataclass(frozen=True)
class Pass:
    """A network and how it is called for so many images: its loss, and what it gives to who samples or predicts."""

    net: nn.Module
    loss: Callable[[int], Tensor]
    forward: Callable[[int], object]
    dtype: torch.dtype


def passed(config: Config, dtype: torch.dtype = torch.bfloat16, device: str = "meta") -> Pass:
    """The preset's network and its calls, in NHWC as on a GPU; a classifier's in float32."""
    labels, model = schema(config.condition.schema), config.model
    features = conditions.width(labels)

    def images(batch: int) -> Tensor:
        return torch.ones(batch, model.image_channels, model.image_size, model.image_size, device=device)

    with torch.device(device):
        judge = config.name in CLASSIFIERS
        net = laid_out(Classifier(model, labels) if judge else UNet(model, features), torch.channels_last)
    if judge:

        def seen(batch: int) -> tuple[Tensor, Tensor]:
            found: tuple[Tensor, Tensor] = net(images(batch).contiguous(memory_format=torch.channels_last))
            return found

        def classified(batch: int) -> Tensor:
            counts = torch.ones(batch, len(labels.answers), device=device)
            return vote_loss(concentrations(seen(batch), labels), counts, labels).mean()

        return Pass(net, classified, seen, torch.float32)
    denoiser = Denoiser(net, config.diffusion, dtype)
    denoiser.layout = torch.channels_last
    still = frozen(denoiser)

    def given(batch: int) -> tuple[Tensor, Tensor]:
        return torch.ones(batch, device=device), torch.ones(batch, features, device=device)

    def denoised(batch: int) -> Tensor:
        sigma, asked = given(batch)
        x = images(batch)
        return edm_loss(denoiser, x, asked, sigma, torch.ones_like(x)).mean()

    return Pass(net, denoised, lambda batch: still(images(batch), *given(batch)), dtype)


def arithmetic(each: Pass) -> tuple[float, float]:
    """FLOPs of a forward pass for an image, and those of its convolutions."""
    convolved: list[int] = []

    def seen(module: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> None:
        assert isinstance(module, Conv)
        convolved.append(2 * out.numel() * module.weight[0].numel())

    hooks = [module.register_forward_hook(seen) for module in each.net.modules() if isinstance(module, Conv)]
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=ATTENTIONS) as counter:
        each.loss(1)
    for hook in hooks:
        hook.remove()
    return float(counter.get_total_flops()), float(sum(convolved))


def _run(each: Pass, batch: int, training: bool) -> None:
    """A pass of a batch: forward and backward in training, otherwise forward alone. No gradient is left."""
    with torch.set_grad_enabled(training):
        if training:
            each.loss(batch).backward()
        else:
            each.forward(batch)
    each.net.zero_grad(set_to_none=True)


def traffic(each: Pass, training: bool) -> tuple[float, float]:
    """Bytes outside products: of an image, and of a step whatever its batch."""
    moved = []
    for batch in (FEW, MORE):
        with Traffic() as counted:
            _run(each, batch, training)
        moved.append(counted.total)
    image = (moved[1] - moved[0]) / (MORE - FEW)
    return image, moved[0] - FEW * image


def held(each: Pass, batch: int, training: bool) -> int:
    """The most bytes that tensors hold: with weights, moments and EMA in training, with frozen weights otherwise."""
    parameters = sum(parameter.numel() for parameter in each.net.parameters())
    with Held() as most:
        _run(each, batch, training)
    return most.most + parameters * (STATE if training else each.dtype.itemsize)


def cost(config: Config) -> Cost:
    """Everything of one preset."""
    each = passed(config)
    flops, convolved = arithmetic(each)
    parameters = sum(parameter.numel() for parameter in each.net.parameters())
    train_bytes, step_bytes = traffic(each, training=True)
    judge = config.name in CLASSIFIERS
    unit = config.train.batch if judge else config.sample.unit
    return Cost(
        config.name,
        parameters,
        each.dtype,
        config.train.batch,
        flops / 1e9,
        convolved / flops,
        traffic(each, training=False)[0],
        train_bytes,
        step_bytes + OPTIMISED * parameters,
        held(each, config.train.batch, training=True),
        unit,
        1 if judge else sum(alone.evaluations(config, config.sample.steps)),
        held(each, unit if judge else 2 * unit, training=False),
    )
