"""`python -m benchmarks train` and `sample`: what is compared is alike, and what is counted is there."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from benchmarks import contest, pace, rows
from benchmarks.__main__ import main
from galaxysd import config as configs
from galaxysd.data import conditions
from galaxysd.data.schema import GZ2
from galaxysd.errors import BadInput
from galaxysd.model.layers import Conv
from galaxysd.train.plan import plan

MODEL, WIDTH = configs.load("smoke-32").model, conditions.width(GZ2)


def test_a_row_of_each(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    for verb in ("train", "sample"):
        assert main([verb, "--preset", "smoke-32", "--batch", "2", "--dtype", "fp32", "--rounds", "1", "--device", "cpu"]) == 0
    found = rows.read(tmp_path / "pace-cpu.jsonl")
    assert [row["name"] for row in found] == ["train", "sample"]
    for row in found:
        assert row["best"]["ours"] == "ours"
        assert row["ratios"]["convolutions"]["median"] > 0
        assert row["ratios"]["plain"]["median"] > 0
        assert row["copies"]["ours"] == 0  # NHWC throughout
    said = capsys.readouterr().out
    assert "| train, `smoke-32`, float32, batch 2 | ours | " in said
    assert main(["train", "--rounds", "0"]) == 2
    assert "--rounds 0" in capsys.readouterr().err


def test_flops_are_those_of_the_plan():
    ours = contest.denoisers("smoke-32", "fp32")[0]["ours"]
    # This counter does not know our attention: two hundredths of the whole.
    want = plan(configs.load("smoke-32"), torch.device("cpu"))["gflop_forward_per_image"]
    assert pace.flops(ours, MODEL, WIDTH) == pytest.approx(want, rel=0.03)


def test_every_convolution_is_among_those_timed_alone():
    ours = contest.denoisers("smoke-32", "fp32")[0]["ours"]
    alone = pace.Convolutions(ours, MODEL, WIDTH, 2)
    assert len(alone.calls) == sum(isinstance(each, Conv) for each in ours.net.modules())
    spent = sum(2 * gradient.numel() / 2 * weight[0].numel() for _, weight, gradient, _, _ in alone.calls) / 1e9
    assert spent == pytest.approx(pace.flops(ours, MODEL, WIDTH), rel=0.1)  # the rest is attention and the embedding
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x, *_ in alone.calls)
    alone.train()
    alone.sample(1)()


def test_only_copies_between_layouts_count():
    x = torch.ones(2, 3, 4, 4)
    with pace.Copies() as counter:
        x.clone()
        x.double()
    assert counter.count == 0
    with pace.Copies() as counter:
        x.contiguous(memory_format=torch.channels_last)
        x.to(memory_format=torch.channels_last).contiguous()
    assert counter.count == 3


@pytest.mark.skipif(importlib.util.find_spec("diffusers") is None, reason="needs diffusers; `make proof-train` installs it")
def test_diffusers_is_of_as_many_flops():
    ours = contest.denoisers("smoke-32", "fp32")[0]["ours"]
    want = pace.flops(ours, MODEL, WIDTH)
    found = pace.wrapped(pace.diffusers_like(MODEL, WIDTH, want), ours)
    assert pace.flops(found, MODEL, WIDTH) == pytest.approx(want, rel=pace.WITHIN)
    with pytest.raises(BadInput, match="not within a tenth"):
        pace.diffusers_like(MODEL, WIDTH, 100 * want)
