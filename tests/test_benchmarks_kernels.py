"""What the kernels verb measures: the census is the model's own, peers compute the same, and nothing wrong is ever timed."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from torch import nn

from benchmarks import census, kernels, peers, timing
from benchmarks.__main__ import main
from benchmarks.accuracy import accuracy, inputs
from galaxysd import config as configs
from galaxysd.data import conditions
from galaxysd.data.schema import schema
from galaxysd.kernels.cases import CASES
from galaxysd.model.layers import Attention, NormSiLU
from galaxysd.model.unet import UNet

LAYOUTS = [torch.contiguous_format, torch.channels_last]


@pytest.mark.parametrize("preset", census.PRESETS)
def test_the_census_counts_every_operation_of_a_step(preset):
    config = configs.load(preset)
    with torch.device("meta"):
        net = UNet(config.model, conditions.width(schema(config.condition.schema)))
    found = census.uses(preset)
    kinds = [type(module) for module in net.modules()]
    assert sum(use.calls for use in found if use.case.startswith("norm")) == kinds.count(NormSiLU)
    assert sum(use.calls for use in found if use.case.startswith("attention")) == kinds.count(Attention)
    assert {use.shape.batch for use in found} == {config.train.batch}
    assert {use.case for use in found} <= set(CASES)
    # A skip of two sources is two matrix products, not a convolution.
    skips = sum(use.calls for use in found if use.case.endswith("cat"))
    assert sum(census.convolutions(preset).values()) == sum(isinstance(module, nn.Conv2d) for module in net.modules()) - skips


def test_the_census_tells_forms_apart():
    assert {use.case for use in census.uses("small-64")} == {
        "norm", "norm-adaptive", "norm-add", "norm-cat", "norm-add-cat", "attention",
    }  # fmt: skip
    assert all((use.shape.second > 0) == use.case.endswith("cat") for use in census.uses("small-64"))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", CASES)
def test_ours_and_the_plain_peer_are_the_definition(name, layout):
    use = kernels.rare(name)
    found = accuracy(CASES[name], inputs(CASES[name], use.shape, torch.float32, "cpu", layout), use.shape)
    assert {"y", "dweight"} <= set(found.errors) or {"y", "dqkv"} <= set(found.errors)
    assert all(max(pair) < 5e-6 for pair in found.errors.values()), found.errors


@pytest.mark.parametrize("spoilt", ["y", "dweight", "nan"])
def test_what_is_wrong_is_seen_and_not_timed(spoilt, tmp_path, monkeypatch, capsys):
    case = CASES["norm-adaptive"]

    def ours(given, shape):
        if spoilt == "dweight":
            weight = given["weight"]
            given = given | {"weight": weight.detach() + 1.05 * (weight - weight.detach())}
        (y,) = case.ours(given, shape)
        return (y * {"y": 1.05, "nan": float("nan")}.get(spoilt, 1.0),)

    use = kernels.rare("norm-adaptive")
    given = inputs(case, use.shape, torch.bfloat16, "cpu", torch.channels_last)
    wrong = accuracy(case, given, use.shape, ours).wrong
    assert any(said.startswith(spoilt if spoilt != "nan" else "y") for said in wrong)
    assert not accuracy(case, given, use.shape).wrong

    monkeypatch.setitem(CASES, "norm-adaptive", dataclasses.replace(case, ours=ours))
    monkeypatch.setattr(kernels, "_timed", lambda *_: pytest.fail("a wrong kernel was timed"))
    assert main(["kernels", "--smoke", "--case", "norm-adaptive", "--results", str(tmp_path)]) == 1
    (row,) = map(json.loads, next(tmp_path.glob("*.jsonl")).read_text().splitlines()[:1])
    assert not row["green"]
    assert row["ratios"] == {}
    assert "norm-adaptive differ from float64" in capsys.readouterr().err


@pytest.mark.parametrize("layout", LAYOUTS)
def test_both_passes_hand_back_what_they_should(layout):
    case, use = CASES["norm-add-cat"], kernels.rare("norm-add-cat")
    given = inputs(case, use.shape, torch.float32, "cpu", layout)
    outputs = timing.passed(case.ours, given, use.shape, timing.FORWARD)()
    assert not any(y.requires_grad for y in outputs)
    gradients = timing.passed(case.ours, given, use.shape, timing.BOTH)()
    plain = timing.passed(peers.plain(case), given, use.shape, timing.BOTH)()
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in zip(gradients, plain, strict=True))
    assert len(gradients) == 5  # x, residual, other, weight, bias


def test_a_copy_moves_as_many_streams_as_the_operation():
    use = kernels.rare("norm")
    given = {"x": torch.ones(use.shape.batch, use.shape.channels, use.shape.height, use.shape.width)}
    for streams in (2, 4, 1.25):
        call = peers.copies(given, use.shape, streams)
        moved = sum(target.numel() for target, _ in call.__closure__[0].cell_contents)
        assert moved == pytest.approx(use.shape.elements * streams / 2, abs=1)
        call()


def test_typos_are_answered_with_the_nearest_name(capsys):
    assert main(["kernels", "--case", "norm-ad"]) == 2
    assert "did you mean norm-add?" in capsys.readouterr().err
    assert main(["kernels", "--preset", "smoke-23"]) == 2
    assert "did you mean smoke-32?" in capsys.readouterr().err


def test_replays_are_timed_and_a_peer_that_refuses_is_named(monkeypatch):
    """The way of a GPU, with a stand-in for graphs: each call costs one second, and what was planted comes on top."""

    class Replay:
        def __init__(self, calls, counted=None):
            for call in calls:
                call()
            self.cost = len(calls) / (counted or len(calls))

        def seconds(self):
            return self.cost

    def refuses(given, shape):
        raise RuntimeError("No available kernel")

    settings = kernels.Settings(torch.device("cuda"), torch.float32, torch.channels_last, rounds=3, compiled=False, plant=1.3)
    use, case = kernels.rare("norm-add"), CASES["norm-add"]
    given = inputs(case, use.shape, torch.float32, "cpu", torch.channels_last)
    monkeypatch.setattr(timing, "Replay", Replay)
    monkeypatch.setattr(timing, "copies_of", lambda given: [given] * 10)
    monkeypatch.setattr(timing, "cold", lambda call: 0.5)
    monkeypatch.setattr(peers, "peers", lambda *_: ({"eager": peers.plain(case), "refuses": refuses}, {"apex": "not built"}))
    row = kernels._timed(use, settings, timing.BOTH, given)
    assert row["ratios"] == {"eager": {"median": 1 / 1.3, "p20": 1 / 1.3, "p80": 1 / 1.3}}
    assert row["absent"] == {"apex": "not built", "refuses": "No available kernel"}
    assert row["cold"] == {"ours": 0.5, "eager": 0.5}
    assert row["bytes"] == 8 * use.shape.elements * 4
    whole = row | {"kind": "kernel", "case": "norm-add", "shape": "", "dtype": "", "pass": "", "green": True, "error_ratio": 1.0}
    assert "absent: apex, refuses" in kernels.say(whole)
