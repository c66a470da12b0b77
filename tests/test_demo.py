"""The demo's pure parts: how a budget is spent, the trial of thread counts, the lines of its summary, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from galaxysd import cli, demo
from galaxysd.demo import Share, classes_line, copies_line, flux_line, trial_rates
from tests import tiny


def test_five_minutes_have_the_shipped_sizes():
    share = Share.of(5.0)
    assert (share.pool, share.per_class, share.like) == (16_384, 50, 160)
    assert Share.of(60.0) == share  # more time is more training, not more of the rest


def test_a_shorter_budget_makes_less_of_everything_and_still_trains():
    shares = {minutes: Share.of(minutes) for minutes in (demo.SHORTEST, 2.5, 5.0)}
    for name in ("pool", "per_class", "like", "after_training"):
        values = [getattr(share, name) for share in shares.values()]
        assert values == sorted(set(values)), name
    assert shares[2.5].pool == 8192
    assert {share.held_out for share in shares.values()} == {1024}
    for minutes, share in shares.items():
        assert share.after_training < 0.6 * 60 * minutes
        assert share.per_class >= 8


def test_a_trial_measures_each_count_and_leaves_the_threads_alone(monkeypatch):
    before, asked = torch.get_num_threads(), []
    threads = torch.set_num_threads
    monkeypatch.setattr(torch, "set_num_threads", lambda n: (asked.append(n), threads(n)))
    rates = trial_rates(tiny.config(), [1, 2], seconds=0.1)
    assert torch.get_num_threads() == before
    assert list(rates) == [1, 2]
    assert all(0 < rate < 1e6 for rate in rates.values())
    assert asked[:4] == [1, 2, 1, 2]  # in turns, first to warm up
    assert asked[-1] == before


def test_a_trial_counts_its_best_step(monkeypatch):
    """With a clock of our own: four images in the fastest of the steps that were timed."""
    now, steps = [0.0], iter([5.0, 5.0, 2.0, 4.0, 1.0, 8.0, 1.0, 1.0])  # two to warm up, then in turns until 7 s are over

    def backward(self):
        now[0] += next(steps)

    monkeypatch.setattr(demo.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(torch.Tensor, "backward", backward)
    assert trial_rates(tiny.config(), [1, 2], seconds=7.0) == {1: 4 / 1.0, 2: 4 / 4.0}


def test_the_line_of_classes():
    found = {
        "classes": {"cigar": {"ratio": {"ratio": 0.914}}, "edge-on": {"ratio": {"ratio": 1.0}}},
        "generated": {"rate": 0.857},
        "rows": 200,
        "mean_ratio": 0.957,
        "shuffled": {"rate": 0.263},
        "chance": 0.25,
    }
    assert classes_line(found, "") == (
        "found in 0.86 of 200 requests, 0.96 of the judge's own rate (cigar 0.91, edge-on 1.00); shuffled 0.26, chance 0.25"
    )
    assert classes_line(None, "no judge is installed") == "not measured: no judge is installed"
    assert classes_line(None, "") == "not measured: no requests"


def test_the_line_of_flux_spans_every_band_and_bin():
    bins = [
        {"bands": {"g": {"ratio": 0.91, "floor_range": [0.97, 1.04]}, "r": {"ratio": 1.02, "floor_range": [0.98, 1.01]}}},
        {"bands": {"g": {"ratio": 1.13, "floor_range": [0.95, 1.02]}}},
        {"rows": 3},  # too few galaxies to compare
    ]
    assert flux_line({"bins": bins}) == (
        "median ratio at the requested magnitude 0.91 to 1.13 over 3 bands and bins, two held-out halves 0.95 to 1.04"
    )
    assert flux_line({"bins": [{"rows": 3}]}) == flux_line(None) == "not measured: too few galaxies with a magnitude"


@pytest.mark.parametrize("space", ["the judge's embedding", "measured properties"])
def test_the_line_of_copies(space: str):
    found = {
        "spaces": {space: {"coverage": {"value": 0.81, "floor": 0.93}}},
        "memorisation": {"generated": {"median": 1.25}, "held_out": {"median": 1.304}, "suspected_copies": 2},
    }
    wanted = "coverage 0.81 (held-out halves 0.93); nearest training galaxy at 1.25 (held-out 1.30), 2 suspected copies"
    assert copies_line(found) == wanted
    found["spaces"]["measured properties"] = found["spaces"].get(space, {}) if space == "measured properties" else {"coverage": {}}
    assert copies_line(found) == wanted  # where there is a judge, its space is the one that is told


@pytest.mark.parametrize("minutes", ["0.2", "nan", "-5"])
def test_a_budget_too_short_is_refused(minutes: str, tmp_path: Path, capsys):
    assert cli.main(["demo", f"--minutes={minutes}", "--out", str(tmp_path / "demo")]) == 2
    assert f"--minutes {float(minutes):g}: the demo needs at least 1" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()


def test_a_folder_in_use_is_refused(tmp_path: Path, capsys):
    (tmp_path / "mine.txt").write_text("dear diary")
    assert cli.main(["demo", "--out", str(tmp_path)]) == 2
    assert "not empty, and nothing is overwritten" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
