"""Training that starts from a trained model: what is kept, what is added, what is rehearsed, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from galaxysd import checkpoint
from galaxysd.cli import main
from galaxysd.data import conditions
from galaxysd.data.conditions import Conditions
from galaxysd.data.galaxies import Galaxies
from galaxysd.data.mixed import Mixed
from galaxysd.data.schema import GZ2, schema
from galaxysd.data.shards import SetWriter
from galaxysd.errors import BadInput
from galaxysd.model.unet import UNet
from galaxysd.sample.generate import load
from galaxysd.train import finetune
from tests import tiny

OWN = "gz2+tidal-stream"


class Streaks(tiny.Blobs):
    """Bright bars along the diagonal: nothing like a blob."""

    def load(self, k: int) -> Galaxies:
        found = super().load(k)
        line = torch.eye(8) * 3.0
        found.images = found.images * 0.1 + line
        found.counts = torch.zeros_like(found.counts)
        found.ids = [f"streak-{i}" for i in found.index.tolist()]
        return found


def written(source, folder: Path) -> Path:
    with SetWriter(
        folder, source.frame, {"made_by": "a test", "is_synthetic": False, **source.describe()}, max(source.chunk_rows)
    ) as writer:
        for k in range(len(source.chunk_rows)):
            writer.write(k, source.load(k))
        writer.finish()
    return folder


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finetune")
    tiny.run(folder / "model", "train.steps=30")
    written(Streaks(1, 12), folder / "mine")
    written(tiny.Blobs(2, 16), folder / "known")
    return folder


def tuned(here: Path, out: str, *words: str) -> int:
    return main(
        [
            "train",
            "--from",
            str(here / "model"),
            "--data",
            str(here / "mine"),
            "--set",
            "train.save_minutes=0",
            "--out",
            str(here / out),
            *words,
        ]
    )


def test_a_new_class_changes_nothing_before_the_first_step(here):
    start = finetune.start(str(here / "model"))
    config = start.found.config.model
    old, new = UNet(config, conditions.width(GZ2)), UNet(config, conditions.width(schema(OWN)))
    checkpoint.fill(old, start.source.tensors, "old")
    checkpoint.fill(new, finetune.weights(start, OWN), "new")
    known = conditions.parse_ask("barred spiral, 2 arms")[0]
    wide = Conditions(torch.cat((known.counts, torch.tensor([[40.0, 0.0]])), 1), known.numeric)
    x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    noise = torch.zeros(1)
    want = old(x, noise, conditions.encode(known, GZ2))
    assert float(want.detach().abs().max()) > 0
    assert torch.allclose(new(x, noise, conditions.encode(wide, schema(OWN))), want, atol=1e-6)


def test_galaxies_of_a_new_class_can_be_asked_for(here, capsys):
    faster = ("--set", "train.learning_rate=5e-3", "--set", "train.batch=32")  # than a real model wants: this one is tiny
    words = ("--new-answer", "tidal-stream", "--rehearse", str(here / "known"), "--images", "9600")
    assert tuned(here, "own", *words, *faster) == 0
    said = capsys.readouterr().out
    assert "drawn galaxies lie at" in said
    model = load(here / "own")
    assert model.schema.name == OWN
    streak = Streaks(1, 8).load(0).images.mean((0, 1))
    mine, others = (model.sample(ask, 16, seed=1).galaxies.images.mean((0, 1)) for ask in ("tidal stream", "smooth"))
    alike = [float(torch.corrcoef(torch.stack((each.flatten(), streak.flatten())))[0, 1]) for each in (mine, others)]
    assert alike[0] > alike[1] + 0.1
    about = checkpoint.read(*checkpoint.locate(here / "own")[:2]).about
    assert about["from"]["sha256"] == finetune.start(str(here / "model")).source.digest.sha256
    assert about["stretch"] == finetune.start(str(here / "model")).source.about["stretch"]
    assert [part["votes"] for part in about["trained_on"]["mixed"]] == [{"tidal-stream_yes": 40.0}, {"tidal-stream_no": 40.0}]
    lines = [json.loads(line) for line in (here / "own" / "nearest.jsonl").read_text().splitlines()]
    assert lines[-1]["drawn"] == finetune.WATCHED
    assert lines[-1]["nearest"] > 0


def test_the_same_command_goes_on_and_another_model_does_not(here, capsys):
    words = ("--new-answer", "tidal-stream", "--rehearsal", "0", "--steps", "4")
    assert tuned(here, "again", *words) == 0
    assert tuned(here, "again", *words) == 0
    tiny.run(here / "other", "train.steps=2")
    assert main(["train", "--from", str(here / "other"), "--data", str(here / "mine"), *words, "--out", str(here / "again")]) == 3
    assert "from.sha256" in capsys.readouterr().err


def test_what_is_frozen_does_not_move(here):
    assert tuned(here, "frozen", "--rehearsal", "0", "--steps", "3", "--set", "train.only=['embedding', 'modulation']") == 0
    before, after = (checkpoint.read(*checkpoint.locate(here / name)[:2]).tensors for name in ("model", "frozen"))
    moved = {name for name in before if not torch.equal(before[name].float(), after[name].float())}
    assert moved
    assert all(name.startswith(("embedding", "modulation")) for name in moved)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--preset", "smoke-32"), "--preset smoke-32 and --from"),
        (("--set", "model.channels=[8, 24]"), r"model.channels: (8, 24) asked for, (8, 16) in"),
        (("--set", "diffusion.sigma_data=1.0"), "diffusion.sigma_data: 1 asked for, 0.5 in"),
        (("--new-answer", "bar"), "bar: schema gz2 has that name already"),
        (("--new-answer", "Tidal Stream"), "no name for a class"),
        (("--rehearsal", "1"), "--rehearsal 1: the share"),
        (("--set", "train.only=['embeding']"), "no parameter's name begins with 'embeding'; did you mean embedding?"),
    ],
)
def test_what_cannot_be_is_refused(here, capsys, words, said):
    assert tuned(here, "refused", "--steps", "2", *words) == 2
    assert said in capsys.readouterr().err
    assert not (here / "refused").exists()


def test_images_of_another_kind_are_refused(here):
    start = finetune.start(str(here / "model"))
    frame = start.found.frame
    for change, said in (
        ({"bands": ("g", "r", "z")}, "bands of the images"),
        ({"size": 16}, "size of the images"),
        ({"unit": "jansky"}, "unit"),
    ):
        with pytest.raises(BadInput, match=said):
            finetune.check_frame(start, replace(frame, **change))
    assert finetune.check_frame(start, frame) == []
    assert "arcsec a pixel" in finetune.check_frame(start, replace(frame, pixel_scale=0.4))[0]


def test_a_share_is_rehearsed():
    mine, known = Streaks(1, 12), tiny.Blobs(4, 16)
    mixed = finetune.mixture(mine, known, 0.25, OWN, "tidal-stream")
    assert isinstance(mixed, Mixed)
    assert mixed.chunk_rows == [12] * 16 + [16] * 4
    first, last = mixed.load(0), mixed.load(19)
    assert first.counts[:, -2:].tolist() == [[40.0, 0.0]] * 12
    assert last.counts[:, -2:].tolist() == [[0.0, 40.0]] * 16
    assert torch.equal(last.counts[:, :-2], known.load(3).counts)


def test_a_model_of_simulated_galaxies_rehearses_them(here):
    start = finetune.start(str(here / "model"))
    assert finetune.simulated(start, 8) is None
    start.source.about["trained_on"] = {"simulated": "atlas", "seed": 3, "first": 0, "n": 64, "size": 16}
    found = finetune.simulated(start, 16)
    assert found is not None
    assert sum(found.chunk_rows) == 64
    assert found.load(0).images.shape[1:] == (3, 16, 16)
