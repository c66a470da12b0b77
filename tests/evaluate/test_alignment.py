from __future__ import annotations

from collections.abc import Callable

import torch

from galaxysd.data.galaxies import Galaxies
from galaxysd.evaluate.alignment import aligned, centred
from galaxysd.evaluate.faults import warped

Draw = Callable[..., Galaxies]


def test_a_moved_turned_or_larger_galaxy_is_laid_on_itself(survey: Draw) -> None:
    images = torch.asinh(survey(16, 0).images / 0.02)
    for moved in (warped(images, angle=8.0), warped(images, shift=1.2), warped(images, scale=1.08) * 1.08**2):
        before = (moved - images).square().flatten(1).mean(1).sqrt()
        after = aligned(moved, images)
        assert (after <= before).all()
        assert after.median() < 0.6 * before.median()
    assert (aligned(images, images) == 0).all()


def test_another_galaxy_stays_another(survey: Draw) -> None:
    images = torch.asinh(survey(16, 0).images / 0.02)
    assert aligned(images[0:8:2], images[1:9:2]).min() > 0.3  # a round one and a cigar


def test_centring_undoes_a_shift(survey: Draw) -> None:
    images = torch.asinh(survey(8, 0).images / 0.02)
    one, other = centred(images), centred(warped(images, shift=torch.tensor([[1.5, -1.0]])))
    assert (one - other).square().mean().sqrt() < 0.5 * (images - warped(images, shift=torch.tensor([[1.5, -1.0]]))).square().mean().sqrt()
