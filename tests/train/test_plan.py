"""What a dry run says, against the real network: parameters, arithmetic by hand, memory as autograd keeps it, disk as files are."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from galaxysd import checkpoint
from galaxysd import config as configs
from galaxysd.errors import Unavailable
from galaxysd.model.layers import Attention, Conv, Linear, Pending
from galaxysd.train import plan
from tests import tiny

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def config() -> configs.Config:
    smoke = configs.load("smoke-32", overrides=["train.dtype='fp32'"])
    return dataclasses.replace(smoke, train=dataclasses.replace(smoke.train, batch=2))


@pytest.fixture(scope="module")
def real(config) -> dict:
    """The network built and run once: its parameters, multiplications counted layer by layer, and what its graph keeps."""
    from galaxysd.data import conditions
    from galaxysd.data.schema import GZ2
    from galaxysd.model.unet import UNet

    net, flops, kept = UNet(config.model, conditions.width(GZ2)), [], {}

    def count(module: torch.nn.Module, given: tuple, out: torch.Tensor | Pending) -> None:
        out = out.x if isinstance(out, Pending) else out
        if isinstance(module, Linear):
            flops.append(2 * module.in_features * out.numel())
        elif isinstance(module, Conv):
            flops.append(2 * module.in_channels * module.kernel_size[0] ** 2 * out.numel())
        else:  # q k^T and its product with v: each N x N x C a galaxy
            pixels = out.shape[2] * out.shape[3]
            flops.append(2 * 2 * pixels * out.numel())

    for module in net.modules():
        if isinstance(module, (Linear, Conv, Attention)):
            module.register_forward_hook(count)

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = net(torch.zeros(2, 3, 32, 32), torch.zeros(2), torch.zeros(2, conditions.width(GZ2)))
    assert out.shape == (2, 3, 32, 32)
    return {"parameters": sum(each.numel() for each in net.parameters()), "flops": sum(flops) / 2, "kept": sum(kept.values())}


def test_it_says_what_the_network_is(config, real):
    found = plan.plan(config, CPU)
    assert found["parameters"] == real["parameters"]
    assert found["gflop_forward_per_image"] == pytest.approx(real["flops"] / 1e9, abs=6e-4)
    assert found["gflop_train_per_image"] == pytest.approx(3 * real["flops"] / 1e9, abs=6e-4)
    assert found["memory_mb"]["activations kept for backward"] == pytest.approx(real["kept"] / 2**20, rel=0.05)
    assert found["memory_mb"]["weights, gradients, moments, EMA"] == pytest.approx(20 * real["parameters"] / 2**20, abs=0.1)
    assert (found["input"], found["output"]) == ([2, 3, 32, 32], [2, 3, 32, 32])
    assert found["maps"] == [[64, 16], [128, 8]]
    assert (found["dtype"], found["device"]) == ("float32", "cpu")


def test_a_checkpoint_takes_what_it_says(tmp_path):
    result = tiny.run(tmp_path / "run", "train.steps=1")
    found = plan.plan(tiny.config(), CPU)
    tensors = sum(
        tensor.numel() * tensor.itemsize
        for name in ("model", "training")
        for tensor in checkpoint.read(result.checkpoint / f"{name}.safetensors").tensors.values()
    )
    assert found["disk_mb_per_checkpoint"] == pytest.approx(tensors / 2**20, abs=0.06)


def test_a_plan_allocates_nothing():
    """Whatever is asked for: a network of a thousand GiB is counted, not built."""
    huge = configs.load("base-128", overrides=["model.channels=[8192,16384,16384,16384]", "train.batch=4096"])
    found = plan.plan(huge, CPU)
    assert found["parameters"] > 5e10
    assert found["memory_mb"]["weights, gradients, moments, EMA"] > 2**20


def test_recomputing_keeps_less(config):
    """The preset of the issue's figure, at a small batch; its counting is compared with the real network's in tests/model/test_unet.py."""
    small = ("train.batch=4", "train.dtype='bf16'")
    kept = [
        plan.plan(configs.load("small-64", overrides=[*small, *more]), CPU)["memory_mb"]["activations kept for backward"]
        for more in ((), ("train.recompute=true",))
    ]
    assert kept[1] <= 0.65 * kept[0]


def test_what_cannot_fit_is_refused_with_what_would():
    """Both values, and settings under which the same run fits: asked for them, it does."""
    huge = configs.load("base-128", overrides=["train.batch=4096", "train.dtype='bf16'"])
    found = plan.plan(huge, CPU)
    state, kept = found["memory_mb"].values()
    free = int((state + kept / 10) * 2**20)
    with pytest.raises(Unavailable, match=rf"memory: {state + kept:.0f} MB needed .*, {free / 2**20:.0f} MB free on cpu; --set") as refused:
        plan.check_memory(found, huge, CPU, free)
    assert "--set train.accumulate=16 (256 at a time)" in str(refused.value)
    assert "--set train.recompute=true" in str(refused.value)
    parts = dataclasses.replace(huge, train=dataclasses.replace(huge.train, accumulate=16))
    plan.check_memory(plan.plan(parts, CPU), parts, CPU, free)
    plan.check_memory(plan.plan(huge, CPU, ranks=16), huge, CPU, free)
    with pytest.raises(Unavailable, match="MB free on cpu; use a smaller preset or another device"):
        plan.check_memory(found, huge, CPU, int(state * 2**20))


def test_free_memory_is_what_the_machine_says(tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal:  4000 kB\nMemAvailable:   3000 kB\n")
    assert plan.free_bytes(CPU, tmp_path / "meminfo") == 3000 * 1024
    assert plan.free_bytes(CPU) > 2**20


def test_words(config, real):
    text = plan.words(plan.plan(config, CPU))
    assert f"preset       smoke-32: {real['parameters'] / 1e6:.2f} M parameters, 69 condition features" in text
    assert "shapes       (2, 3, 32, 32) -> (2, 3, 32, 32); maps 64 x 16 x 16, 128 x 8 x 8" in text
    assert "execution    eager: on a CPU" in text
    assert plan.execution("off", torch.device("cuda")) == "eager: train.compile is off"
    assert plan.execution("auto", torch.device("cuda")) == plan.execution("on", CPU) == "compiled, block by block"


def test_parts_of_a_step_save_memory():
    whole, parts = (plan.plan(tiny.config("train.batch=16", f"train.accumulate={n}"), torch.device("cpu")) for n in (1, 4))
    assert parts["input"][0] == 4
    kept = [each["memory_mb"]["activations kept for backward"] for each in (whole, parts)]
    assert kept[1] == pytest.approx(kept[0] / 4, abs=0.1)
    assert parts["gflop_train_per_image"] == whole["gflop_train_per_image"]
