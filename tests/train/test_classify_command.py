"""`galaxysd classify train`, from simulated galaxies to one file that predicts."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import pytest
import torch

from galaxysd import cli
from galaxysd.model.classifier import load_judge
from galaxysd.simulate.survey import frame, simulate
from tests import ranking

WORDS = ["classify", "train", "--device", "cpu", "--simulate", "tutorial", "--n", "256", "--images", "512", "--set", "train.threads=1"]
WORDS += ["--held-out", "64"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run, what it printed, and the one file it shipped."""
    folder = tmp_path_factory.mktemp("classifier")
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert cli.main([*WORDS, "--ship", str(folder / "mine.safetensors"), "--json", "--out", str(folder / "run")]) == 0
    return folder, json.loads(said.getvalue())


def test_it_says_what_it_made_and_how_good_it_is(trained):
    folder, said = trained
    assert said["steps"] == 4
    assert said["model"] == str(folder / "mine.safetensors")
    found = said["held_out"]["tutorial"]
    seen = simulate("tutorial", 2, range(64), 32)  # the seed after the one that was trained on
    judge = load_judge(folder / "mine.safetensors")
    assert sum(found[f"smooth-or-featured_{answer}"][1] for answer in ("smooth", "featured")) == len(seen)
    right = judge.labels.winners(seen.counts) & judge.labels.winners(judge.fractions(seen, frame("tutorial", 32)))
    rate, rows = found["smooth-or-featured_smooth"]
    assert rate * rows == pytest.approx(float(right[:, 0].sum()))


def test_the_shipped_file_is_the_run_in_half_the_bytes(trained):
    folder, _ = trained
    mine, run = load_judge(folder / "mine.safetensors"), load_judge(folder / "run")
    galaxies, stamps = simulate("tutorial", 9, range(32), 32), frame("tutorial", 32)
    assert torch.allclose(mine.fractions(galaxies, stamps), run.fractions(galaxies, stamps), atol=5e-3)
    assert not torch.equal(mine.concentrations(galaxies, stamps), run.concentrations(galaxies, stamps))
    assert mine.path.stat().st_size < 0.6 * run.path.stat().st_size
    assert all(parameter.dtype is torch.float32 for parameter in mine.net.parameters())


def test_a_shipped_file_is_never_overwritten(trained, tmp_path: Path, capsys):
    folder, _ = trained
    before = (folder / "mine.safetensors").read_bytes()
    assert cli.main([*WORDS, "--ship", str(folder / "mine.safetensors"), "--out", str(tmp_path / "run")]) == 2
    assert "mine.safetensors: already there, and nothing is overwritten" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()  # said before the hours of training, not after
    assert (folder / "mine.safetensors").read_bytes() == before


def test_a_dry_run_prints_the_config(capsys):
    assert cli.main([*WORDS, "--dry-run"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["name"] == "judge-32"
    assert said["train"]["images"] == 512


def test_two_ranks_are_one(trained, tmp_path: Path):
    """The same losses, shipped and printed by the first rank."""
    folder, said = trained
    words = [*WORDS, "--ship", str(tmp_path / "mine.safetensors"), "--json", "--out", str(tmp_path / "run")]
    first, other = ranking.processes(2, tmp_path / "ranks", lambda: cli.main(words))
    assert first.value == other.value == 0, (first, other)
    assert (other.out, other.err) == ("", "")
    mine = json.loads(first.out)
    assert mine["steps"] == 4
    assert mine["loss"] == pytest.approx(said["loss"], rel=1e-6)
    assert mine["held_out"].keys() == said["held_out"].keys()
    assert load_judge(tmp_path / "mine.safetensors").path.stat().st_size == pytest.approx(
        (folder / "mine.safetensors").stat().st_size, rel=0.01
    )
