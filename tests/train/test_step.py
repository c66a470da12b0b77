"""The laws of a step against hand computations, and a state that comes back to the last bit."""

from __future__ import annotations

import math

import pytest
import torch

from galaxysd import checkpoint, seeds
from galaxysd.config import TrainConfig
from galaxysd.model.layers import Conv, laid_out
from galaxysd.train.step import Numbers, Optimiser, learning_rate
from tests import tiny

CONFIG = TrainConfig(batch=10, learning_rate=0.01, warmup_images=100, decay=0.4, ema_images=200.0, clip=0.0)

LOSS = torch.tensor(1.0)


def network(layout: torch.memory_format = torch.contiguous_format) -> torch.nn.Module:
    net = laid_out(torch.nn.Sequential(Conv(4, 6), Conv(6, 2)), layout)
    tiny_draw(net, "start", 0)
    return net


def tiny_draw(net: torch.nn.Module, purpose: str, step: int) -> None:
    with torch.no_grad():
        for number, parameter in enumerate(net.parameters()):
            parameter.copy_(seeds.normal(0, purpose, number, parameter.shape, step)[0])


def advance(net: torch.nn.Module, optimiser: Optimiser, steps: range) -> None:
    """Steps under drawn gradients."""
    for step in steps:
        for number, parameter in enumerate(net.parameters()):
            parameter.grad = seeds.normal(0, "gradient", number, parameter.shape, step)[0].contiguous(
                memory_format=torch.channels_last if parameter.ndim == 4 and not parameter.is_contiguous() else torch.contiguous_format
            )
        optimiser.step(step * 10, step / 20, LOSS)


@pytest.mark.parametrize(
    ("images", "progress", "share"),
    [
        (0, 0.0, 0.1),  # the first batch of ten
        (40, 0.05, 0.5),
        (90, 0.1, 1.0),
        (5_000, 0.6, 1.0),  # the plateau ends where the decay begins
        (6_000, 0.7, 0.5 * (1 + math.cos(math.pi / 4))),
        (7_000, 0.8, 0.5),
        (8_000, 1.0, 0.0),
        (9_000, 1.3, 0.0),
    ],
)
def test_learning_rate(images: int, progress: float, share: float):
    assert learning_rate(CONFIG, images, progress) == pytest.approx(0.01 * share, abs=1e-12)


def test_learning_rate_without_warm_up_and_without_decay():
    flat = TrainConfig(learning_rate=0.01, warmup_images=0, decay=0.0)
    assert {learning_rate(flat, images, progress) for images, progress in ((0, 0.0), (10**6, 1.0))} == {0.01}


def test_the_first_step_is_adams():
    """Adam's first step is the learning rate times the gradient's sign; at one tenth of the warm-up, a tenth of it."""
    net = network()
    before = net[0].weight.detach().clone()
    optimiser = Optimiser(net, CONFIG)
    for parameter in net.parameters():
        parameter.grad = torch.where(parameter > 0, 3.0, -0.2)
    optimiser.step(0, 0.0, LOSS)
    assert torch.allclose(net[0].weight - before, -0.001 * before.sign(), atol=2e-6)
    assert all(parameter.grad is None for parameter in net.parameters())


def test_gradients_are_clipped_and_their_norm_is_given():
    net = network()
    optimiser = Optimiser(net, TrainConfig(clip=0.5))
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    count = sum(parameter.numel() for parameter in net.parameters())
    norm = optimiser.step(0, 0.0, LOSS)
    assert float(norm) == pytest.approx(math.sqrt(count), rel=1e-5)
    first = optimiser.adam.state[net[0].weight]["exp_avg"]
    assert torch.allclose(first, torch.full_like(first, 0.1 * 0.5 / math.sqrt(count)))  # (1 - 0.9) of the clipped gradient


@pytest.mark.parametrize(("loss", "slope"), [(float("nan"), 1.0), (float("inf"), 1.0), (1.0, float("nan")), (1.0, float("inf"))])
def test_numbers_that_are_none_change_nothing_then_or_later(loss: float, slope: float):
    """Weights, moments and average stay to the last bit, also under the good gradients of later steps, without anybody looking."""
    net = network()
    optimiser = Optimiser(net, CONFIG)
    advance(net, optimiser, range(3))
    before = {name: tensor.clone() for name, tensor in optimiser.state().items()}
    for step, (each, slopes) in enumerate(((loss, slope), (1.0, 1.0)), 3):
        for parameter in net.parameters():
            parameter.grad = torch.full_like(parameter, slopes)
        optimiser.step(10 * step, step / 20, torch.tensor(each))
    after = optimiser.state()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert all(bool(torch.isfinite(average).all()) for average in optimiser.ema)


def test_numbers_are_read_in_the_order_of_the_steps():
    numbers = Numbers()
    for step in range(3):
        numbers.add(torch.tensor(float(step)), torch.tensor(10.0 + step))
    assert len(numbers) == 3
    assert numbers.read().tolist() == [[0, 1, 2], [10, 11, 12]]
    assert not len(numbers)


def test_the_average_ramps_with_what_was_seen():
    """Its length is a batch at least, a tenth of the images seen, and 200 images at most."""
    net = network()
    optimiser = Optimiser(net, CONFIG)
    average = net[0].weight.detach().double()
    for step, length in ((0, 10), (4, 10), (10, 11), (99, 100), (199, 200), (400, 200)):
        tiny_draw(net, "wander", step)
        for parameter in net.parameters():
            parameter.grad = torch.zeros_like(parameter)  # weights stay where they were put
        optimiser.step(step * 10, 0.0, LOSS)
        keep = math.exp(-10 / length)
        average = keep * average + (1 - keep) * net[0].weight.detach().double()
        assert torch.allclose(optimiser.averaged()["0.weight"].double(), average, atol=1e-6), step


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_restored_state_goes_on_to_the_same_bits(layout: torch.memory_format):
    """Seven steps, or four, a round trip through checkpoint bytes into another network, and three more."""
    straight = network(layout)
    whole = Optimiser(straight, CONFIG)
    advance(straight, whole, range(7))

    first = network(layout)
    begun = Optimiser(first, CONFIG)
    advance(first, begun, range(4))
    saved = [checkpoint.safetensors.torch.load(checkpoint.packed(part, {"kind": "test"})) for part in (begun.averaged(), begun.state())]
    second = network(layout)
    tiny_draw(second, "something else", 0)
    resumed = Optimiser(second, CONFIG)
    resumed.restore(*saved)
    strides = [parameter.stride() for parameter in straight.parameters()]
    assert [parameter.stride() for parameter in second.parameters()] == strides
    assert [resumed.adam.state[parameter]["exp_avg"].stride() for parameter in second.parameters()] == strides
    advance(second, resumed, range(4, 7))

    for mine, theirs in ((resumed.state(), whole.state()), (resumed.averaged(), whole.averaged())):
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert float(resumed.state()["step.0.weight"]) == 7


def test_a_state_before_the_first_step_has_no_moments():
    net = network()
    optimiser = Optimiser(net, CONFIG)
    assert set(optimiser.state()) == {f"weight.{name}" for name, _ in net.named_parameters()}
    other = Optimiser(network(), CONFIG)
    other.restore(optimiser.averaged(), optimiser.state())
    assert not other.adam.state


def test_the_average_is_a_copy():
    """The model that is used is not the weights that are trained."""
    result = tiny.task("train.steps=1").build()
    optimiser = Optimiser(result, tiny.config().train)
    name, parameter = next(iter(result.named_parameters()))
    assert optimiser.averaged()[name].data_ptr() != parameter.data_ptr()
    assert torch.equal(optimiser.averaged()[name], parameter)
