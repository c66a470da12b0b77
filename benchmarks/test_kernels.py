"""pytest-benchmark groups [ours, each peer]: every fused operation as smoke-32 calls it, forward and backward; on a GPU if there is one."""

from __future__ import annotations

import pytest
import torch

from benchmarks import census, kernels, peers, timing
from benchmarks.accuracy import accuracy, inputs
from benchmarks.kernels import Settings
from galaxysd.kernels.cases import CASES

on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(scope="module", params=sorted(CASES))
def contestants(request):
    """The case's name and its contestants, once ours is right; one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    settings, case = Settings.here(), CASES[request.param]
    shape = next((use.shape for use in census.uses("smoke-32") if use.case == request.param), kernels.rare(request.param).shape)
    given = inputs(case, shape, settings.dtype, settings.device, settings.layout)
    assert not accuracy(case, given, shape).wrong
    others, _ = peers.peers(case, given, shape, compiled=False)
    calls = {"ours": case.ours, **others}
    yield request.param, {name: timing.passed(call, given, shape, timing.BOTH) for name, call in calls.items()}
    torch.set_num_threads(before)


def timed(benchmark, contestants, name: str) -> None:
    case, calls = contestants

    def finished() -> None:
        calls[name]()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    benchmark.group = f"{case}, {timing.BOTH}"
    benchmark.pedantic(finished, rounds=15, warmup_rounds=3)


@pytest.mark.parametrize("name", ["ours", "eager"])
def test_kernel(benchmark, contestants, name):
    timed(benchmark, contestants, name)


@on_a_gpu
@pytest.mark.parametrize("contestants", [name for name in sorted(CASES) if CASES[name].op == "attention"], indirect=True)
@pytest.mark.parametrize("name", [f"sdpa {name}" for name in peers.BACKENDS])
def test_attention_of_each_backend(benchmark, contestants, name):
    timed(benchmark, contestants, name)


@on_a_gpu
@pytest.mark.parametrize("contestants", ["norm", "norm-add", "norm-cat", "norm-add-cat"], indirect=True)
def test_apex(benchmark, contestants):
    pytest.importorskip("apex.contrib.group_norm", reason="needs apex built with its group_norm")
    timed(benchmark, contestants, "apex")
