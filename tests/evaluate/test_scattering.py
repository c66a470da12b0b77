from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from galaxysd import seeds
from galaxysd.data.galaxies import Galaxies
from galaxysd.data.transforms import symmetry
from galaxysd.evaluate.scattering import DIRECTIONS, filters, scales, scattering

Draw = Callable[..., Galaxies]


def test_wavelets_do_not_see_a_constant_and_see_their_own_scale() -> None:
    bank = filters(32)
    assert bank.shape == (3, DIRECTIONS, 32, 32)
    assert bank[..., 0, 0].abs().max() == 0
    waves = torch.arange(32)[None, :] * torch.ones(32, 1)
    strongest = []
    for frequency in (0.375, 0.1875, 0.09375):  # cycles a pixel along x: the centres of the three scales
        spectrum = torch.fft.fft2(torch.cos(2 * torch.pi * frequency * waves))
        answer = torch.fft.ifft2(spectrum * bank).abs().mean((-1, -2))  # [scales, DIRECTIONS]
        strongest.append(divmod(int(answer.argmax()), DIRECTIONS))
    assert strongest == [(0, 0), (1, 0), (2, 0)]


def test_a_turned_or_shifted_galaxy_keeps_its_coefficients(survey: Draw) -> None:
    images = torch.asinh(survey(4, 0).images / 0.02)
    kept = scattering(images, 1)
    assert kept.shape == (4, 3 * scales(32) + 3 * 3)
    for code in range(8):
        turned = scattering(symmetry(images, torch.full((4,), code)), 1)
        assert torch.allclose(turned, kept, atol=0.02), code
    assert torch.allclose(scattering(images.roll((3, -2), (-1, -2)), 1), kept, atol=1e-4)


def test_blur_noise_and_another_galaxy_move_them(survey: Draw) -> None:
    images = torch.asinh(survey(16, 0).images / 0.02)
    kept = scattering(images, 1)
    blurred = (images + images.roll(1, -1) + images.roll(1, -2) + images.roll((1, 1), (-1, -2))) / 4
    noisy = images + seeds.normal(0, "scattering", range(16), images.shape[1:])
    finest = kept[:, 0]
    assert (scattering(blurred, 1)[:, 0] < finest - 0.3).all()
    assert (scattering(noisy, 1)[:, 0] > finest + 0.2).all()
    assert (kept[:8] - kept[8:]).norm(dim=1).min() > 0.1


def test_rows_are_alone_and_broken_ones_are_nan(survey: Draw) -> None:
    images = torch.asinh(survey(5, 0).images / 0.02)
    whole = scattering(images, 1)
    assert torch.allclose(scattering(images[2:3], 1)[0], whole[2], atol=1e-5)
    images[1, 0, 3, 3] = torch.nan
    broken = scattering(images, 1)
    assert broken[1].isnan().any()
    assert broken[[0, 2, 3, 4]].isfinite().all()


@pytest.mark.parametrize("size", [8, 16, 64])
def test_any_size_has_scales(size: int) -> None:
    assert scattering(torch.ones(1, 3, size, size), 1).isfinite().all()
    assert filters(size).shape[0] == scales(size)
