"""`python -m benchmarks ablations`: one factor at a time, rows that are not measured twice, and a table that follows from them."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks import ablations, rows
from benchmarks.__main__ import main
from galaxysd import config as configs
from galaxysd.data.schema import GZ2
from tests import tiny

SMALL = [
    word
    for setting in (*tiny.SETTINGS, "model.image_size=32", "model.attention=[8]", "sample.steps=12", "sample.unit=16")
    for word in ("--set", setting)
]
SIZES = ["--images", "40", "--seeds", "1", "--population", "tutorial", "--pool", "64", "--n", "2", "--held-out", "128", "--device", "cpu"]


def words(folder, *more: str) -> list[str]:
    return ["ablations", *SIZES, *SMALL, "--runs", str(folder / "runs"), "--results", str(folder / "rows.jsonl"), *more]


@pytest.mark.parametrize("arm", ablations.ARMS, ids=[arm.name for arm in ablations.ARMS])
def test_an_arm_changes_one_factor_of_the_preset(arm):
    base, changed = configs.load("demo-32"), configs.load("demo-32", None, list(arm.settings))
    sections = {"noise law": "diffusion", "pixel-unshuffle": "model", "attention": "model", "pose alignment": "train"}
    for section, values in base.to_json().items():
        same = changed.to_json()[section] == values
        assert same == (sections.get(arm.factor) != section), section
    if arm.factor == "pixel-unshuffle":  # attention follows the coarsest maps
        assert changed.model.attention == (changed.model.image_size // changed.model.unshuffle // 2,)


def test_rows_are_appended_as_arms_end_and_not_measured_again(tmp_path, capsys):
    assert main(words(tmp_path, "--only", "base", "--only", "no-attention")) == 0
    found = rows.read(tmp_path / "rows.jsonl")
    assert [row["arm"] for row in found] == ["base", "no-attention"]
    base, bare = found
    assert base["config"]["model"] | {"attention": []} == bare["config"]["model"]
    assert base["parameters"] > bare["parameters"]
    assert base["data"] == {"population": "tutorial", "pose": "aligned", "n": 64, "seed": 1}
    assert (base["images"], base["config"]["train"]["images"]) == (40, 40)
    assert base["img_per_s"] > 0
    before = (tmp_path / "rows.jsonl").read_bytes()
    capsys.readouterr()
    assert main(words(tmp_path, "--only", "base")) == 0
    assert "base, seed 0: has its row already" in capsys.readouterr().out
    assert (tmp_path / "rows.jsonl").read_bytes() == before
    assert main(words(tmp_path, "--report")) == 0
    said = capsys.readouterr().out
    assert "`demo-32` on 64 galaxies of `tutorial`, 40 training images" in said
    assert "| attention | none | " in said
    assert f"{bare['mean_ratio'] - base['mean_ratio']:+.3f}" in said
    assert "pixel-unshuffle" not in said


def test_a_piece_ends_with_75_and_the_same_command_goes_on(tmp_path, capsys):
    piece = words(tmp_path, "--only", "base", "--piece", "1e-9")
    codes = [main(piece)]
    assert codes == [75]
    assert "the same command goes on" in capsys.readouterr().err
    assert rows.read(tmp_path / "rows.jsonl") == []
    assert main(words(tmp_path, "--only", "base")) == 0
    (row,) = rows.read(tmp_path / "rows.jsonl")
    assert main(words(tmp_path / "whole", "--only", "base")) == 0
    (whole,) = rows.read(tmp_path / "whole" / "rows.jsonl")
    assert row["model_sha256"] == whole["model_sha256"]
    assert row["digest"] == whole["digest"]


def test_what_cannot_be_measured_is_said(tmp_path, capsys):
    assert main(words(tmp_path, "--only", "no-atention")) == 2
    assert "no-atention: no such arm; did you mean no-attention?" in capsys.readouterr().err
    assert main(words(tmp_path, "--images", "0")) == 2
    assert main(words(tmp_path, "--report")) == 0
    assert "Not measured yet" in capsys.readouterr().out


def test_random_angles_are_the_same_galaxies_turned():
    aligned, turned = (ablations.galaxies("atlas", pose, 1, 256, 32) for pose in ("aligned", "random"))
    assert aligned.describe()["simulated"] == turned.describe()["simulated"] == "atlas"
    assert aligned.describe() != turned.describe()
    one, other = aligned.load(0), turned.load(0)
    # Second moments along the rows over those along the columns: an edge-on disc says which way it lies.
    axis = torch.arange(32.0) - 15.5
    long = one.counts[:, GZ2.index("disk-edge-on_yes")] > 25

    def flat(images):
        light = images[long].sum(1).clamp_min(0)
        return (light.sum(1) * axis**2).sum(1) > (light.sum(2) * axis**2).sum(1)

    assert int(long.sum()) > 15
    assert float(flat(one.images).double().mean()) > 0.9
    assert 0.2 < float(flat(other.images).double().mean()) < 0.8


def test_the_newest_row_of_a_digest_counts(tmp_path):
    def row(arm: str, seed: int, ratio: float, digest: str) -> dict[str, object]:
        config = configs.load("demo-32").to_json()
        about = {"data": {"population": "atlas", "n": 9}, "score": {"n": 3}, "coverage": None, "gflop_train_per_image": 1.0, "change": ""}
        about |= {"machine": {"versions": {"torch": "2"}}, "commit": "0" * 40, "dirty": False, "time": "", "device": "cpu", "card": "c"}
        about |= {"arm": arm, "factor": "-", "seed": seed, "digest": digest, "images": 8, "config": config, "parameters": 10**6}
        return {"kind": "ablation", **about, "img_per_s": 5.0, "mean_ratio": ratio, "classes": {}}

    file = tmp_path / "rows.jsonl"
    for each in (row("base", 0, 0.5, "a"), row("base", 0, 0.6, "a"), row("less-noise", 0, 0.7, "b"), row("less-noise", 1, 0.8, "c")):
        rows.append(file, json.loads(json.dumps(each)))
    said = list(ablations.report(rows.read(file)))
    (line,) = [each for each in said if "N(-0.8" in each]
    assert "| 0.700, 0.800 | +0.100 | – |" in line
