"""One file to hand on: half the bytes, the same galaxies up to rounding, a card that says how it came to be, never half a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from galaxysd import checkpoint, cli, sample
from galaxysd.errors import GalaxySDError
from galaxysd.train import ship
from tests import tiny

WORDS = ["train", "--device", "cpu", "--simulate", "tutorial", "--n", "24", "--data-seed", "5", "--images", "24", "--preset", "demo-32"]
WORDS += [word for setting in tiny.SETTINGS for word in ("--set", setting)] + ["--set", "model.image_size=16"]


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """A run in pieces of a step each, how each ended, and the one file it shipped."""
    folder = tmp_path_factory.mktemp("ship")
    words = [*WORDS, "--piece", "1e-9", "--ship", str(folder / "mine.safetensors"), "--out", str(folder / "run")]
    codes = []
    while not codes or codes[-1] == 75:
        assert not (folder / "mine.safetensors").exists()
        codes.append(cli.main(words))
    return folder, codes


def test_pieces_end_with_75_until_the_run_is_whole(shipped):
    folder, codes = shipped
    assert codes == [75] * 5 + [0]  # 24 images in batches of 4, at least one step a call
    assert checkpoint.newest(folder / "run").record["calls"] == 6


def test_it_is_half_the_bytes_and_loads_as_float32(shipped):
    folder, _ = shipped
    run = checkpoint.newest(folder / "run").file("model")
    mine = checkpoint.read(folder / "mine.safetensors")
    for name, tensor in mine.tensors.items():
        assert tensor.dtype is torch.float16
        exact = run.tensors[name]
        # Half a unit in the last place; below 2^-14 the steps of float16 no longer shrink.
        assert bool(((tensor.float() - exact).abs() <= torch.maximum(exact.abs() * 2**-11, torch.tensor(2.0**-25))).all()), name
        bf16 = (exact.bfloat16().float() - exact).norm()
        assert (tensor.float() - exact).norm() <= bf16
    loaded = sample.load(folder / "mine.safetensors", dtype="fp32", device="cpu")
    assert {each.dtype for each in loaded.denoiser.net.parameters()} == {torch.float32}
    one, other = (sample.load(folder / name, dtype="fp32", device="cpu").sample("edge-on", 4).flux for name in ("mine.safetensors", "run"))
    assert abs(one - other).max() < 0.02 * other.std()
    assert sum(tensor.nbytes for tensor in mine.tensors.values()) * 2 == sum(tensor.nbytes for tensor in run.tensors.values())


def test_the_card_says_how_it_came_to_be(shipped):
    folder, _ = shipped
    about = checkpoint.read(folder / "mine.safetensors").about
    card = about["card"]
    assert card["command"].startswith("galaxysd train --device cpu --simulate tutorial --n 24 --data-seed 5 --images 24 --preset demo-32")
    assert str(folder) not in json.dumps(about)  # where things lay on this machine is nobody's business
    assert card["command"].endswith("--ship mine.safetensors --out run")
    assert card["data"] == {"simulated": "tutorial", "seed": 5, "first": 0, "n": 24, "size": 16}
    assert (card["images"], card["steps"], card["calls"], card["device"]) == (24, 6, 6, "cpu")
    assert card["seconds"] > 0
    assert card["cpu_seconds"] > 0
    assert len(card["machines"]) == 1
    assert card["versions"]["torch"] == torch.__version__
    assert {name: about[name] for name in ("kind", "frame", "stretch", "trained_on")} == {
        name: checkpoint.newest(folder / "run").file("model").about[name] for name in ("kind", "frame", "stretch", "trained_on")
    }


def test_a_name_that_is_taken_is_refused_before_anything_starts(shipped, tmp_path: Path, capsys):
    folder, _ = shipped
    before = (folder / "mine.safetensors").read_bytes()
    assert cli.main([*WORDS, "--ship", str(folder / "mine.safetensors"), "--out", str(tmp_path / "run")]) == 2
    assert "mine.safetensors: already there, and nothing is overwritten" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert (folder / "mine.safetensors").read_bytes() == before


def test_a_weight_that_does_not_fit_is_named(tmp_path: Path):
    with pytest.raises(GalaxySDError, match=r"head\.weight reaches 70000, half precision ends at 65504"):
        ship.halved({"stem.weight": torch.ones(2), "head.weight": torch.tensor([1.0, -7e4])}, tmp_path)


def test_folders_are_left_out_of_the_command():
    words = ["--out", "/home/me/runs/a", "--ship=/tmp/b.safetensors", "--set", "train.batch=4", "relative/run"]
    assert [ship._placeless(word) for word in words] == ["--out", "a", "--ship=b.safetensors", "--set", "train.batch=4", "relative/run"]
