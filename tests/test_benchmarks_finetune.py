"""`python -m benchmarks finetune`: a class that the survey does not have, rows that are not measured twice, a table from them."""

from __future__ import annotations

import pytest
import torch

from benchmarks import finetune, rows
from benchmarks.__main__ import main
from galaxysd import checkpoint
from galaxysd.cli import main as galaxysd
from galaxysd.simulate import recipe
from galaxysd.simulate.latents import Draws
from galaxysd.simulate.recipe import Recipe
from tests import tiny

SIZES = ["--images", "40", "--mine", "12", "--n", "24", "--known", "2", "--held-out", "48", "--device", "cpu"]
POPULATION = ["--population", "tutorial", "--judged", "128"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    out = tmp_path_factory.mktemp("finetune") / "model"
    settings = (*tiny.SETTINGS, "model.image_size=32", "model.attention=[8]", "sample.steps=6", "sample.unit=16")
    words = ["train", "--simulate", "tutorial", "--n", "64", "--steps", "4", "--out", str(out)]
    assert galaxysd([*words, *(word for each in settings for word in ("--set", each))]) == 0
    return out


def test_the_class_lies_outside_every_range_of_the_survey():
    rows = torch.arange(4096)
    drawn = recipe.traits_of(Recipe("survey"), Draws(0, rows), rows)
    mine = finetune.great_rings(0, 256, 32)
    assert isinstance(mine.preset, Recipe)
    for name, column in mine.preset.given:
        assert min(column) > float(getattr(drawn, name).max()), name
        assert (min(column), max(column)) == pytest.approx(finetune.LATENTS[name], abs=0.02), name
    assert set(finetune.LATENTS) == {name for name, _ in mine.preset.given}


def test_training_and_held_out_galaxies_are_others():
    mine, held = finetune.great_rings(0, 12, 32), finetune.great_rings(12, 20, 32)
    assert torch.equal(finetune.great_rings(0, 40, 32).load(0).images[12:32], held.load(0).images)
    assert not set(mine.load(0).ids) & set(held.load(0).ids)


def test_rows_are_appended_as_arms_end_and_not_measured_again(model, tmp_path, capsys):
    words = [
        "finetune",
        "--model",
        str(model),
        *SIZES,
        *POPULATION,
        "--runs",
        str(tmp_path / "runs"),
        "--results",
        str(tmp_path / "rows.jsonl"),
    ]
    assert main([*words, "--only", "base", "--only", "anew"]) == 0
    found = rows.read(tmp_path / "rows.jsonl")
    assert [row["arm"] for row in found] == ["base", "anew"]
    run = next((tmp_path / "runs").glob("base-*"))
    about = checkpoint.read(*checkpoint.locate(run)[:2]).about
    assert about["from"]["sha256"] == found[0]["named"]["model_sha256"]
    assert [part["votes"] for part in about["trained_on"]["mixed"]] == [{"great-ring_yes": 40.0}, {"great-ring_no": 40.0}]
    assert "from" not in checkpoint.read(*checkpoint.locate(next((tmp_path / "runs").glob("anew-*")))[:2]).about
    for row in found:
        assert row["frechet"]["floor"] > 0
        assert row["frechet"]["value"] > row["frechet"]["floor"]  # a tiny model draws nothing like it
        assert row["nearest_over_apart"] > 0
    capsys.readouterr()
    assert main([*words, "--only", "base"]) == 0
    assert "base: has its row already" in capsys.readouterr().out
    assert main([*words, "--report"]) == 0
    said = capsys.readouterr().out
    assert "| base | as `train --from` does it | " in said
    assert "12 galaxies of the new class, 40 images" in said
    assert main([*words, "--only", "bas"]) == 2
    assert "did you mean base?" in capsys.readouterr().err
