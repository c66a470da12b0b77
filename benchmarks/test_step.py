"""pytest-benchmark groups [ours, plain]: a train step and a sampled unit of smoke-32, at one thread, and their interleaved ratio."""

from __future__ import annotations

import pytest
import torch

from benchmarks import contest
from benchmarks.interleave import interleaved, ratio

CONTESTS = {"train step": contest.train_step, "sampled unit": contest.sampled_unit}


@pytest.fixture(scope="module", params=sorted(CONTESTS))
def contestants(request):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield request.param, CONTESTS[request.param]()
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", ["ours", "plain"])
def test_step(benchmark, contestants, name):
    benchmark.group = f"smoke-32 {contestants[0]}, 1 thread"
    benchmark.pedantic(contestants[1][name], rounds=5, warmup_rounds=2)


def test_ratio(contestants):
    seconds = interleaved(contestants[1], rounds=11)
    found = ratio(seconds["ours"], seconds["plain"])
    print(f"\n{contestants[0]}: ours / plain {found.median:.3f} [{found.low:.3f}, {found.high:.3f}], {found.rounds} rounds interleaved")
    assert found.median <= 1.15
