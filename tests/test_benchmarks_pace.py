"""`python -m benchmarks train` and `sample`: what is compared is alike, what is counted is there, and rows become tables and pictures."""

from __future__ import annotations

import importlib.util
import time

import pytest
import torch

from benchmarks import alone, compiled, contest, counting, goals, pace_report, rows, sweeps
from benchmarks.__main__ import main
from benchmarks.unets import WITHIN, diffusers_like, wrapped
from galaxysd import config as configs
from galaxysd.data import conditions
from galaxysd.data.schema import GZ2
from galaxysd.distributed import ALONE
from galaxysd.errors import BadInput
from galaxysd.model.layers import Conv
from galaxysd.train.plan import plan
from tests.tiny import paced

CONFIG = configs.load("smoke-32")
MODEL, WIDTH = CONFIG.model, conditions.width(GZ2)


@pytest.fixture(scope="module")
def ours():
    return contest.denoisers("smoke-32", "fp32")[0]["ours"]


@pytest.fixture
def words(tmp_path, monkeypatch):
    """Words for a preset so small that a row takes a second or two."""
    return paced(tmp_path, monkeypatch)


def spread(median: float) -> dict[str, float]:
    return {"median": median, "p20": 0.9 * median, "p80": 1.1 * median}


def pace_row(**changes):
    """A row as a machine would have written it."""
    found = {
        "kind": "pace", "device": "cpu", "card": "a card", "machine": {"versions": {"torch": "2.11"}}, "commit": "0" * 40, "dirty": False,
        "time": "2026-01-02T03:04:05+00:00", "name": "train", "preset": "smoke-32", "batch": 32, "size": 32, "dtype": "bfloat16",
        "threads": 1, "rounds": 3, "sweep": None, "best": {"ours": "ours, compiled", "plain": "plain", "diffusers": "diffusers"},
        "ratios": {"ours": spread(1.1), "plain": spread(1.5), "diffusers": spread(1.4), "convolutions": spread(0.8)},
        "seconds": {"ours": 1.1, "ours, compiled": 1.0, "plain": 1.5, "diffusers": 1.4, "convolutions": 0.8},
        "img_per_s": {"ours": 32.0, "plain": 21.3, "diffusers": 22.8}, "gflop_forward": {"ours": 0.32, "plain": 0.32, "diffusers": 0.33},
        "gflop_convolutions": 0.95, "forwards": 3, "ceilings": {"matmul": 0.1, "convolutions": 0.04, "copy": 10.0},
        "mfu": {"ours": 0.31, "plain": 0.2, "diffusers": 0.2}, "copies": {"ours": 0, "plain": 3, "diffusers": 8},
        "held_mb": {"ours": 40.0, "plain": 44.0}, "ops": {"conv": 0.8, "norm": 0.15, "others": 0.05}, "compile_s": {}, "absent": {},
    }  # fmt: skip
    return found | changes


def test_a_row_of_each(words, tmp_path, capsys):
    for verb in ("train", "sample"):
        assert main([verb, *words]) == 0
    found = rows.read(tmp_path / "pace-cpu.jsonl")
    assert [row["name"] for row in found] == ["train", "sample"]
    for row in found:
        assert row["best"]["ours"] == "ours"
        assert (row["batch"], row["size"], row["threads"], row["sweep"]) == (2, 16, 1, None)
        assert {"plain", "convolutions"} <= set(row["ratios"])
        assert row["copies"]["ours"] == 0  # NHWC throughout
        assert row["gflop_forward"]["ours"] == pytest.approx(row["gflop_forward"]["plain"])
        assert all(value > 0 for value in row["ceilings"].values())
        assert 0 < row["mfu"]["ours"] < 2
        assert row["held_mb"]["ours"] > 0
        assert sum(row["ops"].values()) == pytest.approx(1)
        assert any("conv" in name for name in row["ops"])
    said = capsys.readouterr().out
    assert "| train, `tiny`, 16 px, float32, batch 2 | eager | " in said
    assert main(["train", "--rounds", "0"]) == 2
    assert "--rounds 0" in capsys.readouterr().err


def test_flops_are_those_of_the_plan(ours):
    want = plan(configs.load("smoke-32"), torch.device("cpu"))["gflop_forward_per_image"]
    assert counting.flops(ours, MODEL, WIDTH) == pytest.approx(want, abs=6e-4)


def test_every_convolution_is_among_those_timed_alone(ours):
    found = alone.Convolutions(ours, MODEL, WIDTH, 2)
    assert len(found.calls) == sum(isinstance(each, Conv) for each in ours.net.modules())
    assert found.gflop / 2 == pytest.approx(counting.flops(ours, MODEL, WIDTH), rel=0.1)  # the rest is attention and the embedding
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x, *_ in found.calls)
    found.train()
    one = configs.load("smoke-32", overrides=["sample.unit=1"])
    gflop, call = alone.of_a_unit(ours, one, WIDTH, 4)
    assert gflop == pytest.approx(sum(alone.evaluations(one, 4)) * found.gflop / 2)
    call()


def test_guidance_takes_two_passes_inside_its_interval():
    always = configs.load("smoke-32", overrides=["sample.interval=[0,80]"])
    never = configs.load("smoke-32", overrides=["sample.guidance=1"])
    assert alone.evaluations(always, 4) == [2] * 7
    assert alone.evaluations(never, 4) == [1] * 7
    assert alone.evaluations(CONFIG, 4)[0] == 1


def test_only_copies_between_layouts_count():
    x = torch.ones(2, 3, 4, 4)
    with counting.Copies() as counter:
        x.clone()
        x.double()
    assert counter.count == 0
    with counting.Copies() as counter:
        x.contiguous(memory_format=torch.channels_last)
        x.to(memory_format=torch.channels_last).contiguous()
    assert counter.count == 3


def test_memory_is_what_is_held_at_once():
    x = torch.ones(1024)
    with counting.Held() as held:
        x.add_(1)  # nothing new
        y = x + 1
        z = y.view(32, 32) * 2
        assert held.now == held.most == 8192
        del y, z
        w = x * 3
    assert (held.now, held.most) == (4096, 8192)
    assert w.numel() == 1024


def test_views_and_products_move_nothing_of_their_own():
    x = torch.ones(16, 16)
    with counting.Traffic() as moved:
        (x @ x).view(-1).t()
    assert moved.total == 0
    with counting.Traffic() as moved:
        x + x
    assert moved.total == 3 * 1024


def test_a_compiler_that_takes_too_long_is_left():
    with pytest.raises(compiled.Overdue), compiled.within(0.05):
        time.sleep(5)
    with compiled.within(5.0):
        pass
    time.sleep(0.01)


def test_what_does_not_compile_in_time_is_absent_with_its_reason(ours, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda net, mode=None: net)

    def contestants(sides):
        return {name: lambda: time.sleep(5) for name in sides}

    fast, took, absent = compiled.those({"ours": ours}, 0.05, contestants)
    assert (fast, took) == ({}, {})
    assert absent == {"ours, compiled": "not compiled within 0.05 s"}
    assert compiled.those({"ours": ours}, None, contestants) == ({}, {}, {})

    def failing(sides):
        def call():
            raise RuntimeError("no compiler\nfound here")

        return dict.fromkeys(sides, call)

    assert compiled.those({"ours": ours}, 5.0, failing)[2] == {"ours, compiled": "no compiler"}
    fast, took, absent = compiled.those({"ours": ours}, 5.0, lambda sides: dict.fromkeys(sides, lambda: None))
    assert list(fast) == list(took) == ["ours, compiled"]
    assert absent == {}


@pytest.mark.skipif(importlib.util.find_spec("diffusers") is None, reason="needs diffusers; `make proof-train` installs it")
def test_diffusers_is_of_as_many_flops(ours):
    want = counting.flops(ours, MODEL, WIDTH)
    found = wrapped(diffusers_like(MODEL, WIDTH, want), ours)
    assert counting.flops(found, MODEL, WIDTH) == pytest.approx(want, rel=WITHIN)
    with pytest.raises(BadInput, match="not within a tenth"):
        diffusers_like(MODEL, WIDTH, 100 * want)


def test_the_points_of_a_sweep():
    assert sweeps.points(None, "train", "smoke-32", None) == [("train.batch=32",)]
    assert sweeps.points("batch", "sample", "smoke-32", 4) == [(f"sample.unit={each}",) for each in (1, 2, 4, 8)]
    sizes = sweeps.points("resolution", "train", "smoke-32", 2)
    assert sizes[0] == ("train.batch=2", "model.image_size=16", "model.attention=[4]")
    assert [configs.load("smoke-32", overrides=each).model.image_size for each in sizes] == [16, 32, 64]


def test_what_a_rank_does(words, capsys):
    """Of one alone, which exchanges nothing; tests/proof has two of them."""
    found = sweeps.work(ALONE, "tiny", 2, "fp32", 2, "cpu")
    assert found["dtype"] == "float32"
    assert {name: len(each) for name, each in found["seconds"].items()} == {"all ranks": 2, "without exchange": 2, "one rank": 2}
    assert main(["sample", "--sweep", "ranks", *words]) == 2
    assert "python -m benchmarks train" in capsys.readouterr().err
    with pytest.raises(BadInput, match="--batch 3: does not divide by 2 ranks; use 4"):
        sweeps.of_ranks(2, "tiny", 3, "fp32", 1, "cpu")


def test_a_sweep_is_a_row_for_each_point(words, tmp_path):
    assert main(["train", "--sweep", "resolution", *words]) == 0
    found = rows.read(tmp_path / "pace-cpu.jsonl")
    assert [(row["size"], row["batch"], row["sweep"]) for row in found] == [
        (8, 2, "resolution"),
        (16, 2, "resolution"),
        (32, 2, "resolution"),
    ]


def test_the_ranks_of_a_row_are_shown():
    common = {key: pace_row()[key] for key in (*rows.EVERY, "name", "preset", "batch", "dtype", "rounds")}
    row = common | {
        "kind": "ranks", "ranks": 2, "ratios": {"one rank": spread(1.6), "without exchange": spread(0.9)},
        "img_per_s": {"all ranks": 80.0, "one rank": 50.0, "without exchange": 88.9},
    }  # fmt: skip
    assert "| train, `smoke-32`, bfloat16, batch 32 | 2 | 80.0 | 50.0 | 80% | 10% |" in list(pace_report.markdown([row]))


def test_the_table_takes_each_side_in_its_better_form():
    (line,) = [each for each in pace_report.markdown([pace_row(batch=1), pace_row()]) if "batch 32" in each]
    assert line == (
        "| train, `smoke-32`, 32 px, bfloat16, batch 32 | compiled | 32.0 | 31% | 20% | 1.50 [1.35, 1.65], eager "
        "| 1.40 [1.26, 1.54], eager | ours 0, plain 3, diffusers 8 | ours 40, plain 44 |"
    )
    alone = pace_row(best={"ours": "ours", "plain": "plain"})
    assert "not installed" in "\n".join(pace_report.markdown([alone]))
    assert "Not measured yet" in "\n".join(pace_report.markdown([]))


def test_pictures_follow_from_the_rows(tmp_path):
    file = tmp_path / "pace-cpu.jsonl"
    for row in (pace_row(), pace_row(sweep="batch", batch=8), pace_row(sweep="batch", batch=16)):
        rows.append(file, row)
    assert main(["report", "--results", str(tmp_path), "--out", str(tmp_path / "plots")]) == 0
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == ["pace-cpu-cost.png", "pace-cpu-ratios.png"]
    assert all(path.stat().st_size > 10_000 for path in (tmp_path / "plots").iterdir())


def said(*found) -> dict[str, tuple[str, bool]]:
    return {f"{each.goal.device} {each.goal.verb} {each.goal.what}": (each.said, each.ok) for each in goals.outcomes(list(found))}


def test_goals_without_rows_are_not_measured():
    assert len(said()) == len(goals.GOALS)
    assert set(said().values()) == {("not measured", True)}
    # Nor by a row of a sweep, or of a network that was not installed.
    assert said(pace_row(batch=8))["cpu train diffusers takes times ours"] == ("not measured", True)  # another batch
    swept = said(pace_row(sweep="batch"))["cpu train diffusers takes times ours"]
    lacking = said(pace_row(best={"ours": "ours", "plain": "plain"}))["cpu train diffusers takes times ours"]
    assert swept == lacking == ("not measured", True)


def test_goals_are_met_missed_or_explained():
    met = said(pace_row())
    assert met["cpu train diffusers takes times ours"][0].startswith("met, 1.40 on a card")
    assert met["cpu train time over its convolutions alone"][0].startswith("met, 1.25")
    slow = {"ours": spread(1.1), "plain": spread(1.5), "diffusers": spread(0.9), "convolutions": spread(0.5)}
    missed = said(pace_row(ratios=slow))
    assert missed["cpu train diffusers takes times ours"][0].startswith("MISSED, 0.90")
    assert not missed["cpu train diffusers takes times ours"][1]
    explained = missed["cpu train time over its convolutions alone"]
    assert explained[1]
    assert explained[0].startswith("missed, 2.00")
    assert "operation by operation: conv 80%, norm 15%" in explained[0]
    bare = said(pace_row(ratios=slow, ops={"conv": 0.5, "others": 0.5}))["cpu train time over its convolutions alone"]
    assert bare[0].startswith("MISSED")
    assert not bare[1]
    card = pace_row(device="cuda", preset="base-64", batch=256, ratios=slow | {"plain, max-autotune": spread(1.2)})
    gpu = said(card)
    assert gpu["cuda train plain modules under max-autotune take times ours"] == (
        "met, 1.20 on a card, bfloat16, batch 256, commit 000000000",
        True,
    )
    assert [ok for _, ok in gpu.values()].count(False) == 3
