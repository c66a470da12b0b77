"""Telescopes: depth and noise by what they mean, colours and dust between bands, and noise that resampling correlates."""

from __future__ import annotations

import math

import pytest
import torch

from galaxysd import seeds
from galaxysd.errors import BadInput
from galaxysd.simulate import telescopes
from galaxysd.simulate.telescopes import TELESCOPES, WAVELENGTHS, Telescope, telescope


def test_sdss_is_what_populations_are_made_for():
    sdss = telescope("sdss")
    colours = torch.tensor([[0.4, 1.0, 1.7]])
    assert sdss.ratios(colours) is colours
    assert sdss.dust() == (1.22, 0.86, 0.66)
    assert sdss.sky_rms(0.792) == pytest.approx((0.036, 0.048, 0.072))
    assert (sdss.fwhm, sdss.scatter, sdss.gain) == ((1.3 * 1.07, 1.3, 1.3 * 0.96), 1.0, (1050, 900, 700))


@pytest.mark.parametrize("through", TELESCOPES.values(), ids=TELESCOPES)
def test_every_telescope_is_whole(through):
    for name in ("wavelengths", "fwhm", "sky", "gain"):
        values = getattr(through, name)
        assert len(values) == len(through.bands), name
        assert all(value > 0 for value in values), name
    assert through.source
    assert all(width >= through.pixel for width in through.fwhm)  # all sample their seeing


def test_a_source_at_the_depth_is_five_sigma():
    """A matched filter on a gaussian star of that magnitude, summed by pixel."""
    for depth, fwhm, pixel in ((26.6, 0.77, 0.168), (24.9, 1.29, 0.262)):
        s = fwhm / 2.3548
        axis = (torch.arange(200, dtype=torch.float64) - 99.5) * pixel
        star = torch.exp(-0.5 * (axis[:, None] ** 2 + axis**2) / s**2) * pixel**2 / (2 * math.pi * s**2)
        flux = 10 ** (0.4 * (22.5 - depth)) * star
        signal = float(torch.sqrt((flux**2).sum())) / telescopes.sky_from_depth(depth, fwhm, pixel)
        assert signal == pytest.approx(5, rel=0.01)


SKIES = {  # mag per square arcsec at a dark site, and of zodiacal light
    "sdss": (21.84, 20.84, 20.16),
    "decals": (22.04, 20.91, 18.46),
    "hsc": (21.4, 20.6, 19.7),
    "euclid-vis": (22.3,),
    "lsst": (22.26, 21.20, 20.48),
}


@pytest.mark.parametrize("name", TELESCOPES)
def test_noise_and_gain_are_those_of_one_sky(name):
    """Noise is the root of the sky's electrons, so depth, zero point and exposure cannot disagree by much."""
    through = telescope(name)
    per_area = [rms**2 * gain / through.pixel**2 for rms, gain in zip(through.sky, through.gain, strict=True)]
    assert [22.5 - 2.5 * math.log10(each) for each in per_area] == pytest.approx(SKIES[name], abs=0.5)


def test_a_source_in_an_aperture_has_its_sigmas():
    rms = telescopes.sky_from_aperture(25.6, 10, 1.3, 0.1)
    noise = seeds.normal(0, "test-aperture", range(2000), (21, 21)) * rms
    axis = torch.arange(21) - 10
    inside = axis[:, None] ** 2 + axis**2 <= 6.5**2
    assert 10 ** (0.4 * (22.5 - 25.6)) / float((noise * inside).sum((1, 2)).std()) == pytest.approx(10, rel=0.06)


def test_electrons_follow_the_zero_point():
    assert telescopes.electrons(22.5, 30) == 30
    assert telescopes.electrons(25.0, 1) == pytest.approx(10)


def test_bands_between_and_beyond_are_interpolated():
    every = Telescope("test", ("g", "x", "r", "y", "i", "z"), (477, 550, 623, 700, 763, 913), 0.2, (1,) * 6, 1, (1,) * 6, (1,) * 6, "none")
    power = torch.tensor([[(each / 623) ** 1.5 for each in WAVELENGTHS.values()]], dtype=torch.float64)
    found = every.ratios(power)[0]
    want = [(each / 623) ** 1.5 for each in (477, 550, 623, 700, 763)]
    assert found[:5].tolist() == pytest.approx(want, rel=1e-9)
    beyond = math.log(763 / 623) + 0.8 * math.log(913 / 763)
    assert float(found[5]) == pytest.approx(math.exp(1.5 * beyond), rel=1e-9)
    assert found[[0, 2, 4]].tolist() == power[0].tolist()
    dust = every.dust()
    assert list(dust) == sorted(dust, reverse=True)
    assert (dust[0], dust[2], dust[4]) == (1.22, 0.86, 0.66)
    slope = math.log(0.66 / 0.86) / math.log(763 / 623)  # beyond i as from r to i
    assert dust[5] == pytest.approx(0.86 * (913 / 623) ** slope)


def test_noise_after_resampling():
    """White noise through the transfer: rms by `correlated_share`, large sums as before, neighbours alike."""
    size, scale, native = 96, 0.2, 0.5
    white = seeds.normal(0, "test-noise", range(64), (size, size))
    noise = torch.fft.irfft2(torch.fft.rfft2(white) * telescopes.correlation(size, scale, native), s=(size, size))
    share = telescopes.correlated_share(scale, native)
    assert float(noise.std()) == pytest.approx(share, rel=0.01)
    assert 0.1 < share < 0.6
    blocks, before = (torch.nn.functional.avg_pool2d(each[:, None], 24).std() for each in (noise, white))
    assert float(blocks / before) == pytest.approx(1, abs=0.06)
    k = (torch.arange(4096, dtype=torch.float64) + 0.5) / 4096 * (0.5 / scale)
    power = torch.sinc(k * native) ** 4
    alike = float((power * torch.cos(2 * math.pi * k * scale)).mean() / power.mean())
    assert float((noise[:, 1:] * noise[:, :-1]).mean()) / share**2 == pytest.approx(alike, abs=0.02)


def test_averaging_leaves_noise_white():
    assert telescopes.correlation(32, 0.5, 0.5) is None
    assert telescopes.correlated_share(0.8, 0.396) == 1.0


def test_pixels_too_coarse_for_the_seeing_are_refused():
    through = telescope("hsc")
    telescopes.check_pixels(through, 1.4, 32)
    with pytest.raises(BadInput, match=r"its PSF of 0.58 arcsec in i is below a pixel of 2 arcsec.* a size of at least 83 pixels"):
        telescopes.check_pixels(through, 2.0, 64)
    telescopes.check_pixels(through, 128 / 83, 83)
    with pytest.raises(BadInput, match=r"telescope sds: no such telescope; did you mean sdss\?"):
        telescope("sds")
