"""What ours is measured against: the same network in plain modules, and a timing whose numbers can be checked by hand."""

from __future__ import annotations

import math
import time

import pytest
import torch
from torch import nn

from benchmarks import contest, interleave
from benchmarks.interleave import interleaved, ratio
from benchmarks.plain import plain
from galaxysd import seeds
from galaxysd.model.layers import Attention, NormSiLU


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


@pytest.fixture(scope="module", params=[("fp32", 1e-5), ("bf16", 0.03)], ids=["fp32", "bf16"])
def pair(request):
    """Both denoisers of smoke-32 with perturbed weights, inputs, and the tolerance of their dtype."""
    name, tolerance = request.param
    found, config, width = contest.denoisers("smoke-32", name)
    side = config.model.image_size
    x = seeds.normal(0, "x", range(4), (3, side, side))
    return found, (x, torch.tensor([0.01, 0.2, 1.0, 30.0]), seeds.uniform(0, "c", range(4), (width,)).float()), tolerance


def test_plain_is_the_same_network(pair):
    found, inputs, tolerance = pair
    x, sigma, features = inputs
    noise = sigma.log() / 4
    ours, peer = (
        each.net(x.to(each.dtype, memory_format=each.layout), noise, features).detach() for each in (found["ours"], found["plain"])
    )
    assert bool(ours.any())
    assert relative(ours, peer) < tolerance


def test_plain_has_the_same_gradients(pair):
    found, inputs, tolerance = pair
    gradients = []
    for each in (found["ours"], found["plain"]):
        each.zero_grad()
        each(*inputs).square().mean().backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in each.parameters()]))
    assert relative(*gradients) < 2 * tolerance


def test_plain_is_plain_and_ours_is_left_alone(pair):
    found, _, _ = pair
    kinds = {type(module) for module in found["plain"].net.modules()}
    assert not kinds & {Attention, NormSiLU}
    assert nn.GroupNorm in kinds
    ours = found["ours"].net
    assert {Attention, NormSiLU} <= {type(module) for module in ours.modules()}
    pointers = {parameter.data_ptr() for parameter in ours.parameters()}
    assert not pointers & {parameter.data_ptr() for parameter in plain(ours).parameters()}


def test_ratio_is_the_median_of_pairs():
    found = ratio([2.0, 30.0, 1.1], [1.0, 20.0, 1.0])
    assert (found.median, found.low, found.high, found.rounds) == (1.5, 1.1, 2.0, 3)


@pytest.mark.parametrize(("rounds", "low", "high"), [(6, 1, 6), (11, 2, 10), (31, 10, 22)])
def test_interval_ranks_are_those_of_a_coin(rounds: int, low: int, high: int):
    """Between rounds number `low` and `high` the true median lies in 95 % of contests; one rank further in, it does not."""
    pairs = [(7 * k % rounds) + 1.0 for k in range(rounds)] if math.gcd(7, rounds) == 1 else [k + 1.0 for k in range(rounds)]
    found = ratio(pairs, [1.0] * rounds)
    assert (found.low, found.high) == (low, high)

    def covers(rank: int) -> float:
        return sum(math.comb(rounds, k) for k in range(rank, rounds - rank + 1)) / 2**rounds

    assert covers(low) >= 0.95 > covers(low + 1)


def test_every_round_runs_every_contestant_in_turn(monkeypatch):
    """With a clock of our own: a round of a costs 1, 2, 3, ... seconds, one of b always 10."""
    ran, now = [], [0.0]

    def run(name: str, seconds) -> None:
        ran.append(name)
        now[0] += seconds()

    calls = iter(range(1, 100))
    monkeypatch.setattr(interleave.time, "process_time", lambda: now[0])
    contestants = {"a": lambda: run("a", lambda: next(calls)), "b": lambda: run("b", lambda: 10)}
    seconds = interleaved(contestants, rounds=4, warmup=1)
    assert "".join(ran) == "ab" + "ab" + "ba" + "ab" + "ba"
    assert seconds == {"a": [2, 3, 4, 5], "b": [10, 10, 10, 10]}


def test_it_times_work_and_not_waiting():
    seconds = interleaved({"sleeps": lambda: time.sleep(0.02)}, rounds=2, warmup=0)
    assert max(seconds["sleeps"]) < 0.015


@pytest.mark.parametrize("name", ["train_step", "sampled_unit"])
def test_contests_run(name: str):
    """Each contestant of each contest, at a size that takes no time; the images that both sample are the same."""
    entries = contest.train_step(dtype="fp32", batch=2) if name == "train_step" else contest.sampled_unit(dtype="fp32", steps=2)
    assert list(entries) == ["ours", "plain"]
    results = [entry() for entry in entries.values()]
    if name == "sampled_unit":
        assert relative(*results) < 1e-3
