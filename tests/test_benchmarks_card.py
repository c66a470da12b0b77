"""`python -m benchmarks card`: a page from the file's own header and measured scores, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from galaxysd import checkpoint, cli, files
from tests import tiny

SETTINGS = (*tiny.SETTINGS, "model.image_size=32", "model.unshuffle=4", "sample.steps=12", "sample.unit=16")
TRAIN = ["--device", "cpu", "--simulate", "tutorial", "--n", "48", "--data-seed", "5", "--images", "80"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A generator's shipped file, and its scores beside it."""
    folder = tmp_path_factory.mktemp("cards")
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    file = folder / "small.safetensors"
    assert cli.main(["train", "--preset", "demo-32", *TRAIN, *settings, "--ship", str(file), "--out", str(folder / "run")]) == 0
    words = ["--n", "4", "--held-out", "128", "--population", "tutorial", "--device", "cpu", "--out", str(folder / "scores")]
    assert main(["classes", str(file), *words]) == 0
    return file


def test_a_page_says_data_command_time_scores_and_limits(model, capsys):
    out = model.parent / "docs" / "small.md"
    words = ["card", str(model), "--scores", str(model.parent / "scores" / "classes.json"), "--out", str(out)]
    assert main(words) == 0
    page = out.read_text()
    assert page.startswith("# small\n")
    assert "- **Data**: 48 galaxies of `tutorial`, seed 5, indices from 0, 32 px." in page
    assert "- **Command**: `galaxysd train --preset demo-32 --device cpu --simulate tutorial" in page
    assert "- **Time**: 80 images in 20 steps; " in page
    assert f"{model.stat().st_size} bytes" in page
    assert files.digest(model).sha256 in page
    assert "| face-on spiral | " in page
    assert "## Limits" in page
    assert str(model.parent) not in page
    assert main(words) == 2
    assert "exists already, and nothing is overwritten" in capsys.readouterr().err


def test_scores_of_another_model_are_refused(model, tmp_path, capsys):
    scores = json.loads((model.parent / "scores" / "classes.json").read_text())
    (tmp_path / "theirs.json").write_text(json.dumps(scores | {"model_sha256": "0" * 64}))
    (tmp_path / "none.json").write_text("[]")
    for words, said in (
        (["--scores", str(tmp_path / "theirs.json")], "of the model 000000000000"),
        (["--scores", str(tmp_path / "none.json")], "no figures of `benchmarks classes`"),
        ([], "--scores: give classes.json"),
    ):
        assert main(["card", str(model), *words, "--out", str(tmp_path / "page.md")]) == 2
        assert said in capsys.readouterr().err
    run = checkpoint.newest(model.parent / "run").folder / "model.safetensors"
    assert main(["card", str(run), "--out", str(tmp_path / "page.md")]) == 2
    assert "its header has no card; write the model with --ship" in capsys.readouterr().err
    assert not (tmp_path / "page.md").exists()


def test_a_classifier_is_scored_on_each_population_it_learned(tmp_path):
    file = tmp_path / "judge.safetensors"
    words = ["classify", "train", *TRAIN, "--held-out", "32", "--ship", str(file), "--out", str(tmp_path / "run")]
    words[words.index("tutorial")] = "tutorial,survey"
    assert cli.main(words) == 0
    assert main(["card", str(file), "--held-out", "64", "--out", str(tmp_path / "judge.md")]) == 0
    page = (tmp_path / "judge.md").read_text()
    assert "48 galaxies of `tutorial`, seed 5, indices from 0, 32 px; 48 galaxies of `survey`" in page
    assert "| answer | tutorial (seed 6) | N | survey (seed 6) | N |" in page
    assert "| `smooth-or-featured_smooth` | " in page
