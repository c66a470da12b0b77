"""The stretch and its inverse, the symmetries of the square, display colour."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from galaxysd import seeds
from galaxysd.data.galaxies import Frame
from galaxysd.data.transforms import Stretch, codes, display, pictures, symmetry
from galaxysd.errors import BadInput


def test_flux_survives_the_stretch() -> None:
    magnitude = torch.logspace(-3, 4, 3 * 32 * 32).reshape(1, 3, 32, 32)
    flux = torch.cat((magnitude, -magnitude, torch.zeros_like(magnitude)))
    stretch = Stretch("flux", (0.04, 0.05, 0.07), (0.31, 0.27, 0.22), (-0.7, -0.5, 0.3))
    error = (stretch.inverse(stretch.forward(flux)) - flux).abs()
    softening = torch.tensor(stretch.softening)[:, None, None]
    assert bool((error <= 1e-5 * (flux.abs() + softening)).all())


def test_the_inverse_is_exact_to_float32_also_for_a_bright_star() -> None:
    stretch = Stretch("flux", (0.01,), (0.07,), (-0.3,))
    x = torch.linspace(-0.3, 0.75, 64)[:, None, None, None]  # up to sinh(15)
    want = torch.sinh((x.double() + 0.3) / 0.07) * 0.01
    assert torch.allclose(stretch.inverse(x).double(), want, rtol=1e-7, atol=1e-9)


def test_the_stretch_is_the_formula() -> None:
    stretch = Stretch("flux", (2.0,), (3.0,), (0.5,))
    assert float(stretch.forward(torch.full((1, 1, 1, 1), 5.0))) == pytest.approx(torch.asinh(torch.tensor(2.5)).item() * 3 + 0.5)
    assert float(stretch.forward(torch.zeros(1, 1, 1, 1))) == 0.5


def test_every_colour_survives_exactly() -> None:
    colours = torch.arange(256, dtype=torch.uint8).repeat(3).reshape(1, 3, 16, 16)
    stretch = Stretch("rgb", (1.0,) * 3, (0.9, 1.3, 0.4), (0.2, -0.1, 0.0))
    x = stretch.forward(colours)
    assert torch.equal(stretch.inverse(x), colours)
    assert stretch.clipped(x) == 0


def test_a_value_out_of_range_is_clipped_and_counted() -> None:
    stretch = Stretch("rgb", (1.0,), (1.0,), (0.0,))
    x = torch.tensor([-1.5, -1.0, 0.0, 1.0, 1.2]).reshape(1, 1, 1, 5)
    assert stretch.inverse(x).flatten().tolist() == [0, 0, 128, 255, 255]
    assert stretch.clipped(x) == 2


@pytest.mark.parametrize("sky", [(0.02, 0.03, 0.05), None])
def test_fit_gives_the_asked_mean_and_spread(sky: tuple[float, ...] | None) -> None:
    noise = seeds.normal(0, "sky", range(60), (3, 16, 16)) * torch.tensor([0.02, 0.03, 0.05])[:, None, None]
    galaxy = torch.zeros(16, 16)
    galaxy[5:10, 5:10] = 20.0
    images = noise + galaxy
    stretch = Stretch.fit(Frame("flux", 16, sky_rms=sky), images, sigma_data=0.5)
    x = stretch.forward(images).double()
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(3, dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(x.std((0, 2, 3), correction=0), torch.full((3,), 0.5, dtype=torch.float64), atol=1e-6, rtol=0)
    # The sky measured from the images is within a fifth of the true one, though a tenth of the pixels is galaxy.
    assert stretch.softening == pytest.approx([0.12, 0.18, 0.3], rel=1e-9 if sky else 0.2)
    assert Stretch.from_json(stretch.to_json()) == stretch


def test_fit_of_colour(rgb: Frame, make: Any) -> None:
    images = make(40, frame=rgb).images
    x = Stretch.fit(rgb, images, 0.4).forward(images).double()
    assert x.std((0, 2, 3), correction=0).tolist() == pytest.approx([0.4] * 3, abs=1e-6)


def test_fit_refuses_what_has_no_scale(flux: Frame) -> None:
    with pytest.raises(BadInput, match="band g has a spread of 0"):
        Stretch.fit(flux, torch.ones(3, 3, 8, 8))
    with pytest.raises(BadInput, match="no sky noise"):
        Stretch.fit(Frame("flux", 8), torch.ones(3, 3, 8, 8))


@pytest.mark.parametrize(
    "value",
    [
        None,
        {"kind": "flux"},
        {"kind": "flux", "softening": [0], "gain": [1], "offset": [0]},
        {"kind": "flux", "softening": [1], "gain": [float("nan")], "offset": [0]},
        {"kind": "flux", "softening": [1], "gain": [1, 1], "offset": [0]},
        {"kind": "cube", "softening": [1], "gain": [1], "offset": [0]},
        {"kind": "flux", "softening": ["a"], "gain": [1], "offset": [0]},
    ],
)
def test_a_strangers_stretch_is_refused(value: Any) -> None:
    with pytest.raises(BadInput, match="stretch"):
        Stretch.from_json(value)


def test_wrong_bands_are_refused() -> None:
    with pytest.raises(BadInput, match=r"\[B, 1, H, W\] expected"):
        Stretch("flux", (1.0,), (1.0,), (0.0,)).forward(torch.zeros(2, 3, 4, 4))


def test_the_eight_symmetries_are_the_group_of_the_square() -> None:
    image = seeds.normal(0, "image", 0, (2, 5, 5))
    turned = symmetry(image.expand(8, -1, -1, -1), torch.arange(8))
    expected = [torch.rot90(mirrored, k, (-2, -1)) for mirrored in (image[0], image[0].flip(-1)) for k in range(4)]
    found = {tuple(each.flatten().tolist()) for each in turned}
    assert found == {tuple(each.flatten().tolist()) for each in expected}
    assert len(found) == 8
    assert torch.equal(turned[0], image[0])


def test_codes_are_even_and_aligned_ones_keep_the_major_axis() -> None:
    free = codes(0, "symmetry", range(8000), aligned=False)
    assert (torch.bincount(free, minlength=8) - 1000).abs().max() < 150
    mirrors = codes(0, "symmetry", range(8000), aligned=True)
    assert (torch.bincount(mirrors, minlength=8)[:4] - 2000).abs().max() < 200
    assert mirrors.max() == 3
    bar = torch.zeros(1, 1, 9, 9)
    bar[..., 4, :] = 1.0
    assert torch.equal(symmetry(bar.expand(4, -1, -1, -1), torch.arange(4)), bar.expand(4, -1, -1, -1))


def test_symmetry_wants_squares() -> None:
    with pytest.raises(BadInput, match="4 by 5 pixels are not square"):
        symmetry(torch.zeros(1, 1, 4, 5), torch.tensor([0]))


def test_display_by_hand() -> None:
    flux = torch.tensor([0.4, 0.8, 1.0]).reshape(1, 3, 1, 1)  # g r i
    scaled = [0.4 * 2.5 + 0.02, 0.8 * 1.5 + 0.02, 1.0 * 1.0 + 0.02]
    mean = sum(scaled) / 3
    stretched = torch.tensor([value * torch.asinh(torch.tensor(20 * mean)).item() / 20**0.5 / mean for value in scaled])
    expected = (stretched / max(1.0, stretched.max().item()) * 255).round()
    assert display(flux, 0.396).flatten().tolist() == expected.flip(0).tolist()  # red is i


def test_display_shows_surface_brightness_and_keeps_hue() -> None:
    flux = seeds.uniform(0, "flux", range(4), (3, 6, 6)).float()
    coarse = display(flux * 4, 0.792)  # pixels of four times the area hold four times the flux
    assert (coarse.int() - display(flux, 0.396).int()).abs().max() <= 1
    assert torch.equal(display(flux, None), display(flux, 0.396))
    bright = display(torch.tensor([1e3, 2e3, 4e3]).reshape(1, 3, 1, 1), 0.396).flatten()
    assert bright[0] == 255
    assert bright[1].item() == pytest.approx(255 * 3 / 4, abs=1)


def test_pictures_of_either_kind(flux: Frame, rgb: Frame, make: Any) -> None:
    colours = make(2, frame=rgb).images
    assert torch.equal(pictures(colours, rgb).permute(0, 3, 1, 2), colours)
    images = make(2).images
    assert torch.equal(pictures(images, flux), display(images, flux.pixel_scale))
    with pytest.raises(BadInput, match="three bands"):
        display(images[:, :2], 0.4)
