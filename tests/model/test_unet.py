"""The network: starts as nothing, hears its condition in every block, keeps galaxies apart, and is the same in any layout."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from galaxysd import config as configs
from galaxysd import seeds
from galaxysd.data import conditions
from galaxysd.data.conditions import Conditions
from galaxysd.data.schema import GZ2
from galaxysd.kernels import attend, norm
from galaxysd.model import layers
from galaxysd.model.layers import Attention, laid_out, recomputing
from galaxysd.model.unet import CHANNEL_MULTIPLE, UNet
from galaxysd.train.denoise import initialise
from galaxysd.train.plan import Alive
from tests import tiny
from tests.kernels.bf16_dot import bf16_dot  # noqa: F401  (a fixture)

WIDTH = conditions.width(GZ2)


def perturbed(net: torch.nn.Module) -> torch.nn.Module:
    """Drawn weights, away from their first values, so that no path is closed by a zero."""
    initialise(net, 0)
    with torch.no_grad():
        for number, parameter in enumerate(net.parameters()):
            parameter += 0.1 * seeds.normal(0, "perturbed", number, parameter.shape)[0]
    return net.eval()


def inputs(model: configs.ModelConfig, batch: int = 3):
    """Images, noise coordinates and condition features."""
    side = model.image_size
    x = seeds.normal(1, "x", range(batch), (model.image_channels, side, side))
    return x, torch.linspace(-1.0, 1.0, batch), seeds.uniform(1, "features", range(batch), (WIDTH,)).float()


@pytest.fixture(scope="module")
def net() -> UNet:
    return perturbed(UNet(tiny.config().model, WIDTH))


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


def test_a_new_network_says_nothing():
    model = tiny.config().model
    assert not bool(UNet(model, WIDTH)(*inputs(model)).any())


@torch.inference_mode()
def test_the_condition_reaches_every_block(net):
    """With the other blocks' scales and shifts switched off, a changed condition still changes the image."""
    x, noise, features = inputs(net.config)
    widths = [2 * block.outputs for block in net.blocks_in_order]
    assert sum(widths) == net.modulation.out_features
    weight = net.modulation.weight.clone()
    for number in range(len(widths)):
        first = sum(widths[:number])
        net.modulation.weight.zero_()
        net.modulation.weight[first : first + widths[number]] = weight[first : first + widths[number]]
        changed = relative(net(x, noise, features + 1), net(x, noise, features))
        net.modulation.weight.zero_()
        silent = relative(net(x, noise, features + 1), net(x, noise, features))
        net.modulation.weight.copy_(weight)
        assert changed > 1e-4, f"block {number} does not hear the condition"
        assert silent == 0


@torch.inference_mode()
def test_the_noise_level_is_heard(net):
    x, noise, features = inputs(net.config)
    assert relative(net(x, noise + 0.1, features), net(x, noise, features)) > 1e-3


@torch.inference_mode()
def test_nothing_asked_is_no_features(net):
    """What guidance subtracts, zero features, is what a galaxy of unknown votes and numbers is encoded to."""
    x, noise, _ = inputs(net.config)
    unknown = conditions.encode(Conditions.unknown(3), GZ2)
    assert torch.equal(net(x, noise, unknown), net(x, noise, torch.zeros(3, WIDTH)))


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_galaxy_does_not_see_its_companions(net, dtype: torch.dtype):
    """At one batch size a row's bytes are its own: the unit of work of sampling stands on this."""
    x, noise, features = inputs(net.config, 4)
    x = x.to(dtype)
    alone = [torch.zeros_like(each) for each in (x, noise, features)]
    for each, whole in zip(alone, (x, noise, features), strict=True):
        each[2] = whole[2]
    assert torch.equal(net(*alone)[2], net(x, noise, features)[2])


@torch.inference_mode()
def test_the_padding_of_stem_and_head_is_nowhere_in_the_image():
    net = perturbed(UNet(tiny.config().model, WIDTH))
    folded = 3 * net.config.unshuffle**2
    assert net.stem.in_channels == net.head.out_channels == folded + net.padding == 16
    assert net.stem.in_channels % CHANNEL_MULTIPLE == 0
    before = net(*inputs(net.config))
    net.stem.weight[:, folded:] = 1e6
    net.head.weight[folded:], net.head.bias[folded:] = 1e6, 1e6
    assert torch.equal(net(*inputs(net.config)), before)
    net.head.bias[folded - 1] += 1  # the last channel that is an image's
    assert not torch.equal(net(*inputs(net.config)), before)


@torch.inference_mode()
def test_both_layouts_agree():
    model = tiny.config().model
    nchw, nhwc = (perturbed(UNet(model, WIDTH)) for _ in range(2))
    laid_out(nhwc, torch.channels_last)
    x, noise, features = inputs(model)
    assert relative(nhwc(x.to(memory_format=torch.channels_last), noise, features), nchw(x, noise, features)) < 1e-5


@torch.inference_mode()
def test_bf16_is_near_fp32(net):
    x, noise, features = inputs(net.config, 8)
    found = net(x.bfloat16(), noise, features)
    assert found.dtype is torch.bfloat16
    assert all(parameter.dtype is torch.float32 for parameter in net.parameters())
    assert relative(found, net(x, noise, features)) < 0.03


def test_every_weight_learns():
    """No part of the network is left out of the result; only the padding of stem and head has no gradient."""
    net = perturbed(UNet(tiny.config().model, WIDTH))
    net(*inputs(net.config)).square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.any()), name
    folded = 3 * net.config.unshuffle**2
    assert not bool(net.stem.weight.grad[:, folded:].any())
    assert not bool(net.head.weight.grad[folded:].any())


@pytest.mark.parametrize(
    ("attention", "wanted"),
    # Maps of 4 and 2 pixels, one block each way and one in the middle, which is of the coarsest map.
    [((), []), ((2,), ["down.1.0", "middle", "up.0.0"]), ((4,), ["down.0.0", "up.1.0"]), ((8,), [])],
)
def test_attention_stands_where_the_config_says(attention: tuple[int, ...], wanted: list[str]):
    model = dataclasses.replace(tiny.config().model, attention=attention)
    net = UNet(model, WIDTH)
    assert [name.removesuffix(".attention") for name, module in net.named_modules() if isinstance(module, Attention)] == wanted


@pytest.mark.parametrize(
    ("preset", "channels", "blocks", "sides"),
    [
        ("smoke-32", (64, 128), 1, [8]),
        ("small-64", (64, 128, 192), 2, [16]),
        ("base-64", (128, 256, 256, 256), 3, [16, 8]),
        ("base-128", (64, 128, 192, 256), 2, [16]),
    ],
)
def test_presets_are_the_networks_they_say(preset: str, channels: tuple[int, ...], blocks: int, sides: list[int]):
    config = configs.load(preset)
    assert (config.model.channels, config.model.blocks) == (channels, blocks)
    with torch.device("meta"):
        net = UNet(config.model, WIDTH)
    seen: list[int] = []
    for module in net.modules():
        if isinstance(module, Attention):
            module.register_forward_hook(lambda module, given, out: seen.append(out.x.shape[-1]))
            assert module.heads * 64 == module.qkv.in_channels
    with torch.device("meta"):
        out = net(*(torch.empty(each.shape) for each in inputs(config.model, 1)))
    assert list(dict.fromkeys(seen)) == sides
    assert out.shape == (1, 3, config.model.image_size, config.model.image_size)


def test_smoke_is_small():
    with torch.device("meta"):
        net = UNet(configs.load("smoke-32").model, WIDTH)
    assert 1e6 < sum(parameter.numel() for parameter in net.parameters()) <= 2e6


@pytest.fixture(scope="module")
def smallest():
    """One block each way and one in the middle, each with attention, in NHWC; and its inputs."""
    config = tiny.config("model.channels=[8]", "model.attention=[4]").model
    x, noise, features = inputs(config)
    return laid_out(perturbed(UNet(config, WIDTH)), torch.channels_last), (x.contiguous(memory_format=torch.channels_last), noise, features)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_norms_computed_again_give_the_same_gradients_from_less_memory(layout, dtype):
    """To the last bit, and what is held between forward and backward is at most 0.65 of it."""
    config = configs.load("smoke-32").model
    slopes, held = [], []
    for again in (False, True):
        net = laid_out(perturbed(UNet(config, WIDTH)), layout)
        net = recomputing(net) if again else net
        x, noise, features = inputs(config, 4)
        with Alive() as alive:
            out = net(x.to(dtype).contiguous(memory_format=layout), noise, features)
        held.append(alive.bytes)
        out.float().square().mean().backward()
        slopes.append({name: parameter.grad for name, parameter in net.named_parameters()})
    kept, computed = slopes
    assert all(torch.equal(computed[name], kept[name]) for name in kept)
    assert held[1] <= 0.65 * held[0]


def test_nothing_is_computed_again_where_nothing_learns(smallest, monkeypatch):
    net, given = smallest
    wanted = net(*given).detach()
    monkeypatch.setattr(layers.NormSiLU, "recompute", True)
    monkeypatch.setattr(layers, "again", lambda *given: pytest.fail("a region that nobody will go back through"))
    with torch.no_grad():
        assert torch.equal(net(*given), wanted)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_trained_layers_may_stand_behind_frozen_ones(layout):
    """Their gradients are those of the whole network's; torch's own norm in NHWC would end the process."""
    config = tiny.config().model
    net = laid_out(perturbed(UNet(config, WIDTH)), layout)
    slopes = []
    for first in (True, False):
        for name, parameter in net.named_parameters():
            parameter.requires_grad_(first or name.startswith(("up", "head")))
        net.zero_grad()
        x, noise, features = inputs(config, 2)
        net(x.contiguous(memory_format=layout), noise, features).square().mean().backward()
        slopes.append({name: parameter.grad for name, parameter in net.named_parameters() if parameter.requires_grad})
    whole, some = slopes
    assert 0 < len(some) < len(whole)
    assert all(relative(some[name], whole[name]) < 1e-5 for name in some)


# Dynamo makes an instance of an autograd function while it traces one, and torch warns of that.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiled_without_a_break_it_is_the_same(smallest):
    net, given = smallest
    results = []
    for each in (net, torch.compile(net, fullgraph=True, backend="aot_eager")):
        net.zero_grad()
        out = each(*given)
        out.square().mean().backward()
        results.append((out.detach(), torch.cat([parameter.grad.flatten() for parameter in net.parameters()])))
    (out, slope), (compiled_out, compiled_slope) = results
    assert relative(compiled_out, out) < 1e-5
    assert relative(compiled_slope, slope) < 1e-5


LOAD = """
import sys, numpy, torch
model = torch._inductor.aoti_load_package(sys.argv[1])
given = numpy.load(sys.argv[2])
x, noise, features = (torch.tensor(given[name]) for name in ("x", "noise", "features"))
numpy.save(sys.argv[3], model(x.contiguous(memory_format=torch.channels_last), noise, features).numpy())
assert not [name for name in sys.modules if name.startswith("galaxysd")]
"""


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")  # torch's own, while it compiles
def test_packaged_ahead_of_time_it_runs_where_galaxysd_is_not(smallest, tmp_path):
    net, given = smallest
    with torch.no_grad():
        program = torch.export.export(net, given)
        assert {"galaxysd.attention.default", "galaxysd.group_norm_silu.default"} <= {str(node.target) for node in program.graph.nodes}
        package = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "net.pt2"))
        wanted = net(*given)
    np.savez(tmp_path / "given.npz", **dict(zip(("x", "noise", "features"), (t.numpy() for t in given), strict=True)))
    command = [sys.executable, "-c", LOAD, package, str(tmp_path / "given.npz"), str(tmp_path / "out.npy")]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=100)
    assert relative(torch.from_numpy(np.load(tmp_path / "out.npy")), wanted) < 1e-5


class Concatenations(TorchDispatchMode):
    """Counts operators, and the concatenations of maps among them."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = self.maps = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.seen += 1
        self.maps += func is torch.ops.aten.cat.default and out.ndim == 4
        return out


def carried_as_on_cuda(x, weight, bias, groups, *, residual, other):
    """What `group_norm_silu_carry` does with CUDA tensors."""
    y, first, second = norm._Carry.apply(x, residual, other, weight, bias, None, None, None, groups, 1e-5, "none", 0.0)
    return y, (first,) if other is None else (first, second)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs the interpreter; on a card tests/test_benchmarks_gpu.py compares networks")
@pytest.mark.parametrize("again", [False, True])
def test_the_network_as_it_is_on_cuda(monkeypatch, bf16_dot, again: bool):  # noqa: F811
    """Sources never concatenated, skip gradients as addends, every op by its launchers in the interpreter: the same network."""
    config = tiny.config("model.channels=[16,32]", "model.attention=[2]", "model.head_width=16", "model.qk_norm=true").model
    net = laid_out(perturbed(UNet(config, WIDTH)), torch.channels_last)
    x, noise, features = inputs(config, 2)

    def run():
        net.zero_grad()
        out = net(x.contiguous(memory_format=torch.channels_last), noise, features)
        out.square().mean().backward()
        return out.detach(), torch.cat([parameter.grad.flatten() for parameter in net.parameters()])

    with Concatenations() as joined:
        wanted = run()
    assert joined.maps > 0  # a CPU writes them: the count sees what it should
    net, launched = recomputing(net) if again else net, []

    def counted(function):
        return lambda *given: launched.append(function.__name__) or function(*given)

    monkeypatch.setattr(layers, "group_norm_silu_carry", carried_as_on_cuda)
    monkeypatch.setattr(norm, "aten_forward", lambda *given: (*counted(norm.launch_forward)(*given), x.new_empty(0)))
    monkeypatch.setattr(norm, "aten_backward", lambda *given: counted(norm.launch_backward)(*given[:10], *given[11:]))  # less `pre`
    monkeypatch.setattr(attend, "aten_forward", counted(attend.launch_forward))
    monkeypatch.setattr(attend, "aten_backward", counted(attend.launch_backward))
    with Concatenations() as joined:
        found = run()
    assert joined.seen > 100
    assert joined.maps == 0
    norms = sum(isinstance(module, layers.NormSiLU) for module in net.modules())
    assert launched.count("launch_forward") == launched.count("launch_backward") + norms * again
    assert launched.count("launch_backward") > 10
    assert relative(found[0], wanted[0]) < 1e-5
    assert relative(found[1], wanted[1]) < 1e-5
