"""On a GPU: the same bits in another process and in another batch, compiled like eager, and the network's gradients like plain modules'."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import accuracy, contest, kernels
from benchmarks.plain import plain
from galaxysd import seeds
from galaxysd.kernels.cases import CASES, Shape

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.gpu


def digest(tensors) -> str:
    found = hashlib.sha256()
    for t in tensors:
        found.update(t.detach().contiguous().view(torch.uint8).cpu().numpy().tobytes())
    return found.hexdigest()


def result(name: str) -> str:
    """Digest of outputs and every gradient of a case, at the batch its census would never have."""
    case, shape = CASES[name], kernels.rare(name).shape
    given = accuracy.inputs(case, shape, torch.bfloat16, "cuda", torch.channels_last)
    outputs, _ = case.launched(given, shape, None)
    cotangents = tuple(accuracy.normal(f"c{k}", tuple(y.shape)).to("cuda", y.dtype) for k, y in enumerate(outputs))
    outputs, gradients = case.launched(given, shape, cotangents)
    return digest([*outputs, *(gradients[key] for key in sorted(gradients))])


@pytest.mark.parametrize("name", CASES)
def test_bf16_is_as_close_to_float64_as_torch(name):
    use = kernels.rare(name)
    found = accuracy.accuracy(CASES[name], accuracy.inputs(CASES[name], use.shape, torch.bfloat16, "cuda", torch.channels_last), use.shape)
    assert not found.wrong


@pytest.mark.parametrize("name", CASES)
def test_another_process_gives_the_same_bits(name):
    program = f"from tests.test_benchmarks_gpu import result; print(result({name!r}))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split()[-1] == result(name)


BATCHED = [(name, side) for name in ("norm-adaptive", "norm-add", "attention", "attention-norm") for side in (8, 16, 32)]
BATCHED += [("norm-adaptive", 64), ("norm-add", 64)]  # an attention that long is torch's own


@pytest.mark.parametrize(("name", "side"), BATCHED)
def test_a_sample_is_the_same_in_any_batch(name, side):
    attention = name.startswith("attention")
    case = CASES[name]
    large = Shape(7, side, side, 128, 2 if attention else 8)
    given = accuracy.inputs(case, large, torch.bfloat16, "cuda", torch.channels_last)
    whole = case.launched(given, large, None)[0][0]
    for at in (0, 6):
        one = {key: t if key in ("weight", "bias", "qk_gain") else t[at : at + 1].contiguous() for key, t in given.items()}
        one = {key: t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t for key, t in one.items()}
        alone = case.launched(one, Shape(1, side, side, 128, large.parts), None)[0][0]
        assert torch.equal(alone[0], whole[at])


@pytest.fixture(scope="module")
def step():
    """smoke-32 in bf16 on the card: the network, inputs, and the gradients' cotangent."""
    found, config, width = contest.denoisers("smoke-32", "bf16", "cuda")
    side = config.model.image_size
    x = seeds.normal(0, "x", range(8), (3, side, side)).to("cuda", torch.bfloat16)
    noise, features = torch.linspace(-1, 1, 8, device="cuda"), seeds.uniform(0, "c", range(8), (width,)).float().cuda()
    return found["ours"].net, (x.contiguous(memory_format=torch.channels_last), noise, features)


def values(net, inputs) -> list[torch.Tensor]:
    net.zero_grad()
    y = net(*inputs)
    y.float().square().mean().backward()
    return [y.detach(), *(parameter.grad.clone() for parameter in net.parameters() if parameter.grad is not None)]


def relative(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> float:
    a, b = (torch.cat([t.double().flatten() for t in each]) for each in (found, wanted))
    return float((a - b).norm() / b.norm())


def test_the_networks_gradients_are_those_of_plain_modules(step):
    net, inputs = step
    mine, truth = values(net, inputs), values(plain(net), inputs)
    assert relative(mine[:1], truth[:1]) < 0.03
    assert relative(mine[1:], truth[1:]) < 0.06


def test_compiled_without_a_break_it_gives_the_same(step):
    net, inputs = step
    torch._dynamo.reset()
    mine, truth = values(torch.compile(net, fullgraph=True), inputs), values(net, inputs)
    assert relative(mine[:1], truth[:1]) < 0.03
    assert relative(mine[1:], truth[1:]) < 0.06


def test_a_step_twice_gives_the_same_bits(step):
    net, inputs = step
    with torch.no_grad():
        assert torch.equal(net(*inputs), net(*inputs))
