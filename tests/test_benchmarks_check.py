"""The guard against slower kernels: it lets noise pass, fails on a planted slowdown, and says which kernel it was."""

from __future__ import annotations

import argparse
import dataclasses
import time

import pytest

from benchmarks import check, kernels, peers, rows, timing
from benchmarks.__main__ import main
from benchmarks.census import uses
from galaxysd.kernels.cases import CASES
from tests.tiny import paced

USE = uses("smoke-32")[-1]


@pytest.fixture
def clock(monkeypatch):
    """CPU time of our own: a call of ours costs 1 second, of the peer 1.5, of a copy next to nothing; reading it costs a little."""
    now = [0.0]

    def read() -> float:
        now[0] += 1e-4
        return now[0]

    def costing(call, seconds):
        def costly(given, shape):
            now[0] += seconds
            return call(given, shape)

        return costly

    monkeypatch.setattr(time, "process_time", read)
    for name, case in CASES.items():
        monkeypatch.setitem(CASES, name, dataclasses.replace(case, ours=costing(case.ours, 1.0)))
    plain = peers.plain
    monkeypatch.setattr(peers, "plain", lambda case, masked=False: costing(plain(case, masked), 1.5))
    monkeypatch.setattr(rows, "device", lambda: "cpu")


@pytest.fixture
def committed(clock, tmp_path, monkeypatch):
    """A folder with the rows of two cases, measured with that clock."""
    words = ["--case", "attention", "--case", "norm-cat", "--rounds", "2", "--results", str(tmp_path)]
    assert main(["kernels", *words]) == 0
    return words


@pytest.mark.parametrize(("plant", "code"), [("1", 0), ("1.1", 0), ("1.3", 1)])
def test_a_planted_slowdown_fails_it_and_less_does_not(committed, plant, code, capsys):
    assert main(["check", "--plant", plant, *committed]) == code
    said = capsys.readouterr()
    if code:
        assert "SLOWER attention" in said.out
        assert "4 of 4 ratios below 0.85 of the committed ones, twice: attention" in said.err
        assert "committed 1.50, found 1.15 (0.77 of it), then 1.15 (0.77 of it)" in said.out
    else:
        assert "4 ratios hold" in said.out
        assert "then" not in said.out.split("\n", 2)[2]


def test_a_slowed_call_takes_as_much_longer_as_was_asked(clock):
    def call() -> None:
        began = time.process_time()
        while time.process_time() < began + 1:
            pass

    slow = timing.slowed(call, 1.3)
    began = time.process_time()
    slow()
    assert time.process_time() - began == pytest.approx(1.3, rel=0.01)


def fresh(*ratios: float):
    """A measurement that finds these ratios one after the other."""
    found = iter(ratios)
    return lambda use, which, again: {"green": True, "ratios": {"eager": {"median": next(found)}}}


def row(median: float = 2.0, **changes):
    return {"case": USE.case, "shape": str(USE.shape), "pass": "forward", "ratios": {"eager": {"median": median}}} | changes


@pytest.mark.parametrize(
    ("found", "ok", "looks"),
    [((2.0,), True, 1), ((1.71,), True, 1), ((1.69, 1.71), True, 2), ((1.0, 5.0), True, 2), ((1.69, 1.69), False, 2)],
)
def test_only_twice_below_is_slower(found, ok, looks):
    (verdict,) = check.verdicts([row()], fresh(*found), 0.85)
    assert verdict.ok == ok
    assert len(verdict.found) == looks


def test_wrong_is_not_slow():
    with pytest.raises(check.Slower, match=r"wrong, not slow: dx is off"):
        list(check.verdicts([row()], lambda *_: {"green": False, "wrong": ["dx is off by 1"]}, 0.85))


def test_shapes_of_no_preset_are_passed_over_and_counted():
    known, strange = check.measurable([row(), row(shape="1x2x3x4/5")])
    assert [each["shape"] for each in known] == [str(USE.shape)]
    assert [each["shape"] for each in strange] == ["1x2x3x4/5"]


def test_rows_of_this_card_come_before_those_of_another():
    base = {"kind": "kernel", "green": True, "device": "cpu", "dtype": "bf16"}
    mine, other = row(card="mine", **base), row(card="other", **base)
    assert check.comparable([mine], "cpu", "mine", "bf16")[0] == [mine]
    found, said = check.comparable([other], "cpu", "mine", "bf16")
    assert found == [other]
    assert "there is none of mine" in said
    assert check.comparable([other], "cpu", "mine", "fp32")[0] == []
    assert check.comparable([other], "cuda", "mine", "bf16")[0] == []


def test_nothing_to_compare_with_is_said(tmp_path, capsys):
    assert main(["check", "--results", str(tmp_path)]) == 4
    assert "python -m benchmarks kernels" in capsys.readouterr().err
    assert main(["check", "--plant", "0.5"]) == 2


def test_the_headline_weighs_by_calls():
    made = [
        {"kind": "kernel", "green": True, "pass": kernels.BOTH, "case": use.case, "shape": str(use.shape), "digest": "d" * 64,
         "seconds": {"ours": 1.0, "eager": 3.0, "other": 2.0 if number else 4.0, "copy": 0.1}}
        for number, use in enumerate(uses("smoke-32"))
    ]  # fmt: skip
    every = list(uses("smoke-32"))
    calls = [use.calls for use in every]
    total = kernels.headline("smoke-32", made, every)
    assert total["ratios"]["best peer"]["median"] == pytest.approx((3 * calls[0] + 2 * sum(calls[1:])) / sum(calls))
    assert total["ratios"]["eager"]["median"] == pytest.approx(3.0)
    assert kernels.headline("smoke-32", made[1:], every) is None


def stepped(plain: float, **changes):
    return {
        "name": "train",
        "preset": "smoke-32",
        "size": 32,
        "dtype": "float32",
        "batch": 2,
        "seconds": {"ours": 1.0, "plain": plain},
    } | changes


@pytest.mark.parametrize(("found", "ok", "looks"), [((2.0,), True, 1), ((1.69, 1.71), True, 2), ((1.69, 1.69), False, 2)])
def test_a_step_is_slower_when_it_is_twice_below(found, ok, looks):
    values = iter(found)
    (verdict,) = check.paces([stepped(2.0)], lambda row, again: stepped(next(values)), 0.85)
    assert (verdict.ok, len(verdict.found)) == (ok, looks)
    assert "train, `smoke-32`, 32 px, float32, batch 2" in str(verdict)


def test_steps_of_this_card_and_of_no_sweep_are_measured_again():
    mine = stepped(2.0, kind="pace", device="cpu", card="mine", sweep=None)
    others = [mine | change for change in ({"card": "other"}, {"sweep": "batch", "batch": 4}, {"preset": "base-64"})]
    assert check.steps([*others, mine], "cpu", "mine") == [mine]


def test_a_step_that_became_slower_is_noticed(tmp_path, monkeypatch, capsys):
    """On a row that was just measured: our step, made to cost three times as much, fails."""
    monkeypatch.setitem(check.pace.PRESET, "cpu", "tiny")
    assert main(["train", *paced(tmp_path, monkeypatch)]) == 0
    arguments = argparse.Namespace(rounds=3, plant=3.0, results=tmp_path)
    (verdict,) = check.of_steps(arguments, "cpu", 0.85)
    assert not verdict.ok
    capsys.readouterr()
    assert check.reached(tmp_path) == []
    assert "goal: cuda train base-64: time over its convolutions alone at most 1.2: not measured" in capsys.readouterr().out
