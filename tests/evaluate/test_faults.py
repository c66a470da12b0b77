from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from galaxysd.data.galaxies import Frame, Galaxies
from galaxysd.evaluate import faults
from galaxysd.evaluate.morphology import local_sky, measure

Draw = Callable[..., Galaxies]


@pytest.fixture(scope="module")
def good(survey: Draw) -> Galaxies:
    galaxies = survey(40, 1, "new")
    return replace(galaxies, cond_counts=galaxies.counts, cond_numeric=galaxies.numeric)


def test_each_fault_moves_what_it_is_named_after_and_keeps_the_rest(good: Galaxies, frame: Frame) -> None:
    before = measure(good.images, frame)

    def after(fault: str) -> dict[str, torch.Tensor]:
        bad = faults.FAULTS[fault](good, frame, 0)
        assert bad.images.shape == good.images.shape
        assert bad.ids == good.ids
        return {name: column / before[name] for name, column in measure(bad.images, frame).items()}

    assert after("brightness")["flux_r"].median() == pytest.approx(1.05, rel=1e-3)
    colour = after("colour")
    assert colour["flux_g"].median() == pytest.approx(1.15, rel=1e-3)
    assert colour["flux_r"].median() == pytest.approx(1.0, rel=1e-6)
    size = after("size")
    assert size["r50"].median() == pytest.approx(1.2, rel=0.02)
    assert size["flux_r"].median() == pytest.approx(1.0, rel=0.03)
    assert after("noisy")["noise_r"].median() == pytest.approx(2**0.5, rel=0.1)
    assert after("blurred")["noise_r"].median() < 0.6
    shuffled = faults.garbage(good, frame, 0).images
    assert torch.equal(shuffled.flatten(2).sort(-1).values, good.images.flatten(2).sort(-1).values)
    few = faults.collapsed(good, frame, 0).images
    assert (few[0].sum() - few[faults.MODES].sum()).abs() < 0.1 * few[0].sum()


def test_labels_and_classes(good: Galaxies, frame: Frame, survey: Draw) -> None:
    wrong = faults.mislabelled(good, frame, 0)
    assert wrong.images is good.images
    assert good.cond_counts is not None
    assert wrong.cond_counts is not None
    assert not torch.equal(wrong.cond_counts, good.cond_counts)
    assert torch.equal(wrong.cond_counts.sum(0), good.cond_counts.sum(0))
    featured = frame.labels.index("smooth-or-featured_featured")
    counts = good.counts.clone()
    counts[:10] = 0
    counts[:10, featured] = 40
    missing = faults.classes_missing(replace(good, counts=counts), frame, 0)
    assert torch.equal(missing.images[10:], good.images[10:])
    assert torch.equal(missing.images[:10], good.images[10:20].flip(-1))


def test_a_warp_keeps_flux_and_does_what_it_says(gaussian: Callable[..., torch.Tensor]) -> None:
    image = gaussian(sigma=4.0, axis_ratio=0.5, angle=0.3)
    turned = faults.warped(image, angle=20.0)
    assert float((turned - gaussian(sigma=4.0, axis_ratio=0.5, angle=0.3 + torch.pi / 9)).abs().max()) < 0.02 * float(image.max())
    moved = faults.warped(image, shift=torch.tensor([[2.0, -1.0]]))
    assert float((moved - gaussian(sigma=4.0, axis_ratio=0.5, angle=0.3, centre=(2.0, -1.0))).abs().max()) < 0.02 * float(image.max())
    larger = faults.warped(image, scale=1.25)
    assert float((larger - gaussian(sigma=5.0, axis_ratio=0.5, angle=0.3)).abs().max()) < 0.02 * float(image.max())
    for each in (turned, moved, larger):
        assert float(each.sum()) == pytest.approx(float(image.sum()), rel=1e-3)


def test_copies_are_of_the_training_set_they_name(good: Galaxies, survey: Draw) -> None:
    training = survey(60, 3, "train")
    plain = faults.copies(good, training, "as it is", 5)
    named = faults.copied_from(len(plain), training, 5)
    assert torch.equal(plain.images, training.images[[training.ids.index(name) for name in named]])
    for kind in faults.COPIES:
        other = faults.copies(good, training, kind, 5).images
        assert (other - plain.images).abs().max() > 0 or kind == "as it is"
        assert local_sky(other)[1].isfinite().all()
