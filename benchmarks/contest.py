"""The contests of the end-to-end road: a train step and a sampled unit of a preset, ours and in plain torch modules."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import torch

from benchmarks.interleave import turns
from benchmarks.plain import plain
from galaxysd import config as configs
from galaxysd import seeds
from galaxysd.config import Config
from galaxysd.data import conditions
from galaxysd.data.schema import schema
from galaxysd.diffusion.denoiser import Denoiser, frozen, resolve_dtype, resolve_layout
from galaxysd.diffusion.guidance import Guided
from galaxysd.diffusion.loss import edm_loss
from galaxysd.diffusion.samplers import levels, solve
from galaxysd.model.layers import Attention, NormSiLU, laid_out
from galaxysd.model.unet import UNet
from galaxysd.train.step import Optimiser

Contest = dict[str, Callable[[], object]]


def denoisers(
    preset: str, dtype: str = "auto", device: str = "cpu", single: bool = False, overrides: Sequence[str] = ()
) -> tuple[dict[str, Denoiser], configs.Config, int]:
    """The preset's network with perturbed weights, ours and plain, in the dtype and layout the trainer would take.

    `single` adds plain networks with one of our operations each.
    """
    config, place = configs.load(preset, overrides=overrides), torch.device(device)
    width = conditions.width(schema(config.condition.schema))
    net = UNet(config.model, width)
    with torch.no_grad():
        for number, parameter in enumerate(net.parameters()):
            parameter += 0.02 * seeds.normal(0, "benchmark", number, parameter.shape)[0]
    net = net.to(place)
    resolved = resolve_dtype(dtype, place)
    found = {}
    nets = {"ours": net, "plain": plain(net)}
    if single:
        nets |= {"norm": plain(net, (Attention,)), "attention": plain(net, (NormSiLU,))}
    for name, each in nets.items():
        layout = resolve_layout(config.train.layout, place, resolved)
        found[name] = Denoiser(laid_out(each, layout), config.diffusion, resolved)
        found[name].layout = layout
    return found, config, width


def train_step(preset: str = "smoke-32", dtype: str = "auto", batch: int = 32, device: str = "cpu", single: bool = False) -> Contest:
    """One whole step: loss, backward, clipping, AdamW, EMA."""
    return steps(*denoisers(preset, dtype, device, single), batch, device)


def steps(found: Mapping[str, Denoiser], config: Config, width: int, batch: int, device: str) -> Contest:
    """A train step of each of these."""
    side = config.model.image_size
    x0 = 0.5 * seeds.normal(0, "benchmark-x", range(batch), (config.model.image_channels, side, side)).to(device)
    noise = seeds.normal(0, "benchmark-noise", range(batch), x0.shape[1:]).to(device)
    features = seeds.uniform(0, "benchmark-c", range(batch), (width,)).float().to(device)
    sigma = torch.linspace(0.05, 5.0, batch, device=device)

    def contestant(denoiser: Denoiser) -> Callable[[], object]:
        optimiser = Optimiser(denoiser.net, config.train)

        def step() -> None:
            loss = edm_loss(denoiser, x0, features, sigma, noise).mean()
            loss.backward()
            optimiser.step(0, 0.0, loss.detach())

        return step

    return {name: contestant(each) for name, each in found.items()}


def sampled_unit(preset: str = "smoke-32", dtype: str = "auto", steps: int = 4, device: str = "cpu") -> Contest:
    """One unit of galaxies through a few guided steps of the shipped sampler."""
    return units(*denoisers(preset, dtype, device), steps, device)


def units(found: Mapping[str, Denoiser], config: Config, width: int, steps: int, device: str) -> Contest:
    """A unit drawn by each of these, frozen."""
    return drawn({name: frozen(each) for name, each in found.items()}, config, width, steps, device)


def drawn(still: Mapping[str, Denoiser], config: Config, width: int, steps: int, device: str) -> Contest:
    """A unit drawn by each of these, which are frozen already."""
    side, unit = config.model.image_size, config.sample.unit
    start = seeds.normal(0, "benchmark-unit", range(unit), (config.model.image_channels, side, side)) * config.diffusion.sigma_max
    features = seeds.uniform(0, "benchmark-c", range(unit), (width,)).float().to(device)
    start, sigmas = start.to(device), levels(config.diffusion, steps)

    def contestant(denoiser: Denoiser) -> Callable[[], object]:
        @torch.inference_mode()
        def draw() -> torch.Tensor:
            denoise = Guided(denoiser, features, config.sample.guidance, config.sample.interval)
            return solve(config.sample.sampler, denoise, start, sigmas, denoise.acts)

        return draw

    return {name: contestant(each) for name, each in still.items()}


def on_cuda(contestants: Contest, rounds: int, warmup: int = 3) -> dict[str, list[float]]:
    """Seconds of each contestant in each round on a GPU, waited for; in turns. Launch overhead counts: it is part of a step."""
    names = list(contestants)
    found: dict[str, list[float]] = {name: [] for name in names}
    for number in range(-warmup, rounds):
        for name in turns(names, number):
            torch.cuda.synchronize()
            began = time.perf_counter()
            contestants[name]()
            torch.cuda.synchronize()
            if number >= 0:
                found[name].append(time.perf_counter() - began)
    return found
