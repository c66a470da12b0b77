"""The generator's side of training: weights from seed and name, a loss that is a function of the step, words for what does not fit."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from galaxysd import seeds
from galaxysd.data import conditions, transforms
from galaxysd.data.transforms import Stretch
from galaxysd.diffusion.loss import draw_sigma
from galaxysd.errors import GalaxySDError
from galaxysd.train.denoise import DenoiseTask, initialise
from tests import tiny


def test_weights_are_a_function_of_seed_and_name():
    one, same, other = (tiny.task(f"train.seed={seed}").build().state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    drawn = [name for name, tensor in one.items() if bool(tensor.any()) and tensor.ndim > 1]
    assert all(not torch.equal(one[name], other[name]) for name in drawn)
    twins = [one[f"embedding.{name}.weight"] for name in ("condition_out", "out")]
    assert twins[0].shape == twins[1].shape
    assert not torch.equal(*twins)


def test_weights_are_he_uniform_and_zeros_stay():
    net = torch.nn.Sequential(torch.nn.Linear(300, 200), torch.nn.Linear(50, 50)).requires_grad_(False)
    net[0].bias.fill_(0.5)
    net[1].weight.zero_()
    initialise(net, 3)
    assert float(net[0].weight.std()) == pytest.approx((1 / 300) ** 0.5, rel=0.02)  # uniform on +-sqrt(3 / fan in)
    assert float(net[0].weight.abs().max()) == pytest.approx((3 / 300) ** 0.5, rel=0.01)
    assert not bool(net[1].weight.any())
    assert bool((net[0].bias == 0.5).all())


def test_loss_is_a_function_of_the_step():
    task = tiny.task()
    net, galaxies = task.build(), tiny.Blobs().load(0)
    losses = {step: float(tiny.loss(task, net, galaxies, step).detach()) for step in (0, 1, 2)}
    assert len(set(losses.values())) == 3
    assert losses[1] == float(tiny.loss(task, net, galaxies, 1).detach())
    assert losses[1] != float(tiny.loss(tiny.task("train.seed=1"), net, galaxies, 1).detach())


def seen(task: DenoiseTask, galaxies, step: int):
    """What the network and the loss are shown in one step: noisy images, noise levels, features, in the batch's order."""
    shown = {}

    class Spy(torch.nn.Module):
        def forward(self, x, noise, features):
            shown.update(x=x, sigma=(4 * noise).exp(), features=features)
            return torch.zeros_like(x)

    tiny.loss(task, Spy(), galaxies, step)
    return shown


def test_a_batch_is_made_of_its_positions():
    """Symmetry, dropped conditions and noise of a row belong to its position in the stream, whoever stands beside it."""
    task, galaxies = tiny.task(), tiny.Blobs().load(0)
    whole = seen(task, galaxies, 3)
    seed, config = task.config.train.seed, task.config
    sigma = draw_sigma(config.diffusion, seed, 3, torch.arange(16), 16)
    assert torch.allclose(whole["sigma"], sigma, rtol=1e-5)
    for row in (0, 5, 15):
        position, alone = 48 + row, galaxies.rows(torch.tensor([row]))
        x0 = transforms.symmetry(task.stretch.forward(alone.images), transforms.codes(seed, "train-symmetry", position, False))
        noise = seeds.normal(seed, "train-noise", position, (3, 8, 8))
        wanted = (x0 + noise * sigma[row]) * (sigma[row] ** 2 + 0.25).rsqrt()
        assert torch.allclose(whole["x"][row], wanted[0], atol=1e-5)
        known = conditions.dropped(conditions.of(alone), config.condition, seed, position, task.schema)
        assert torch.equal(whole["features"][row], conditions.encode(known, task.schema)[0])


def test_aligned_galaxies_are_only_mirrored():
    galaxies = tiny.Blobs().load(0)
    galaxies.images[:, :, 0, :] += 100  # a bright top row
    quiet = ("diffusion.p_mean=-6.0", "diffusion.p_std=0.01")  # hardly any noise, so that the image is seen
    for settings, rows, columns in (((), True, True), (("train.aligned=true",), True, False), (("train.flips=false",), True, False)):
        x = seen(tiny.task(*quiet, *settings), galaxies, 0)["x"].mean(1)
        in_rows = (x.mean(2).argmax(1) % 7 == 0) & (x.mean(2).amax(1) > x.mean(1).amax(1))
        assert (bool(in_rows.any()), bool((~in_rows).any())) == (rows, columns), settings


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"size": 16}, "model.image_size: 8, the images are 16 pixels on a side; use --set model.image_size=16"),
        (
            {"bands": ("g", "r"), "zero_points": (22.5, 22.5), "psf_fwhm": None, "sky_rms": None},
            r"model.image_channels: 3, the images have 2 bands \(g, r\); use --set model.image_channels=2",
        ),
    ],
)
def test_images_of_another_size_or_bands_are_said(change: dict, words: str):
    frame = dataclasses.replace(tiny.Blobs.frame, **change)
    stretch = Stretch.fit(tiny.Blobs.frame, tiny.Blobs().load(0).images)
    with pytest.raises(GalaxySDError, match=words):
        DenoiseTask(tiny.config(), frame, stretch, torch.device("cpu"))
