"""The classifier's task: it learns how votes follow from pixels, and refuses images that are not its own."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from galaxysd.data import transforms
from galaxysd.data.transforms import Stretch
from galaxysd.errors import GalaxySDError
from galaxysd.model.classifier import concentrations, load_judge, vote_loss
from galaxysd.runlog import StopSignals, read
from galaxysd.train.classify import ClassifyTask
from galaxysd.train.loop import train
from tests import tiny


def task(*settings: str, **change) -> ClassifyTask:
    frame = dataclasses.replace(tiny.Blobs.frame, **change)
    stretch = Stretch.fit(tiny.Blobs.frame, tiny.Blobs().load(0).images)
    return ClassifyTask(tiny.config(*settings), frame, stretch, torch.device("cpu"))


def test_it_learns_blobs(tmp_path):
    """Wide blobs were called smooth: after a second it says so of blobs it has not seen, and is surer than its prior was."""
    result = train(
        task("train.steps=150", "train.batch=16", "train.learning_rate=5e-3", "train.log_steps=1"), tiny.Blobs(8), tmp_path, StopSignals()
    )
    losses = [row["loss"] for row in read(tmp_path / "log.jsonl") if "gradient" in row]
    assert sum(losses[-20:]) < 0.9 * sum(losses[:20])
    judge, unseen = load_judge(result.run), tiny.Blobs(12).load(11)
    said, voted = (votes[:, 0] for votes in (judge.fractions(unseen, tiny.Blobs.frame), judge.labels.fractions(unseen.counts)))
    assert float(torch.corrcoef(torch.stack((said, voted)))[0, 1]) > 0.95
    assert float((said - voted).abs().mean()) < 0.1


def test_loss_is_the_mean_over_the_batch_of_the_votes():
    """Without symmetries it is the likelihood of the votes under the network's own answer."""
    plain = task("train.flips=false")
    net, galaxies = plain.build(), tiny.Blobs().load(0)
    out = net(plain.stretch.forward(galaxies.images))
    wanted = vote_loss(concentrations(out, plain.labels), galaxies.counts, plain.labels).mean().detach()
    assert float(tiny.loss(plain, net, galaxies, 0).detach()) == pytest.approx(float(wanted), rel=1e-5)
    assert float(tiny.loss(plain, net, galaxies, 9).detach()) == pytest.approx(float(wanted), rel=1e-5)


def test_symmetries_are_of_the_position_in_the_stream():
    turned = task()
    net, galaxies = turned.build(), tiny.Blobs().load(0)
    galaxies.images[:, :, :2] += 3.0  # symmetries of a round blob could not be told apart
    codes = transforms.codes(turned.config.train.seed, "train-symmetry", range(48, 64), False)
    x = transforms.symmetry(turned.stretch.forward(galaxies.images), codes)
    wanted = vote_loss(concentrations(net(x), turned.labels), galaxies.counts, turned.labels).mean().detach()
    assert float(tiny.loss(turned, net, galaxies, 3).detach()) == pytest.approx(float(wanted), rel=1e-5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"size": 16}, "model.image_size: 8, the images are 16 pixels"),
        ({"bands": ("r",), "zero_points": (22.5,), "psf_fwhm": None, "sky_rms": None}, "model.image_channels: 3, the images have 1 bands"),
    ],
)
def test_images_of_another_size_or_bands_are_said(change, words: str):
    with pytest.raises(GalaxySDError, match=words):
        task(**change)
