"""Telescopes, pixels and distances: light where it should be, and what cannot be seen refused in words."""

from __future__ import annotations

import pytest
import torch
from astropy.cosmology import FlatLambdaCDM

from galaxysd.errors import BadInput
from galaxysd.simulate import recipe, render, views
from galaxysd.simulate.latents import STAR, without
from galaxysd.simulate.recipe import Recipe, draw
from galaxysd.simulate.survey import SimulatedSource, frame, simulate
from galaxysd.simulate.views import View


def test_luminosity_distance_is_that_of_astropy():
    z = torch.tensor([0.001, 0.02, 0.1, 0.5, 1.0, 3.0])
    want = FlatLambdaCDM(H0=70, Om0=0.3, Tcmb0=0).luminosity_distance(z.double().numpy()).value
    assert views.luminosity_distance(z).tolist() == pytest.approx(want.tolist(), rel=1e-4)


def test_moved_galaxies_are_smaller_and_dimmed_as_the_fourth_power():
    lat = draw("survey", 3, range(256))
    far = views.moved(lat, torch.full((256,), 0.2))
    universe = FlatLambdaCDM(H0=70, Om0=0.3, Tcmb0=0)
    here, there = (universe.angular_diameter_distance(each.redshift.double().numpy()).value for each in (lat, far))
    assert (far.r90 / lat.r90).tolist() == pytest.approx((here / there).tolist(), rel=1e-3)
    dimmer = 10 ** (-0.4 * (far.magnitude - lat.magnitude)) / (far.r90 / lat.r90) ** 2
    want = ((1 + lat.redshift) / 1.2) ** 4
    galaxies = lat.kind != STAR
    assert dimmer[galaxies].tolist() == pytest.approx(want[galaxies].tolist(), rel=2e-3)
    assert torch.equal(far.magnitude[~galaxies], lat.magnitude[~galaxies])  # a star before it shines on
    assert torch.equal(far.seeing, lat.seeing)
    assert torch.equal(far.star_place, lat.star_place)
    assert torch.equal(far.field_place, lat.field_place)
    assert torch.equal(far.field_radius, lat.field_radius)
    nearer = lat.redshift < 0.2
    assert bool((far.colours[nearer, 0, 0] < lat.colours[nearer, 0, 0]).all())  # redder: less g for the same r


def test_the_same_redshift_moves_nothing():
    lat = draw("survey", 3, range(32))
    same = views.moved(lat, lat.redshift)
    assert torch.allclose(same.r90, lat.r90)
    assert torch.allclose(same.magnitude, lat.magnitude)
    assert torch.allclose(same.colours, lat.colours)


def test_pixels_by_r90_show_every_galaxy_as_large():
    view = View(pixels="r90")
    galaxies, plain = simulate("survey", 4, range(64), 64, view=view), simulate("survey", 4, range(64), 64)
    assert galaxies.numeric[:, 2].tolist() == pytest.approx([64 / 3.2] * 64, rel=1e-4)
    scale = torch.tensor(galaxies.extra["pixel_scale"])
    lat = draw("survey", 4, range(64))
    assert scale.tolist() == pytest.approx((3.2 * lat.r90 / 64).tolist(), rel=1e-5)
    assert torch.equal(galaxies.counts, plain.counts)
    found = frame("survey", 64, view)
    assert found.pixel_scale is None
    assert found.sky_rms is None
    # The noise is that of the pixel each galaxy has.
    corner = galaxies.images[:, 1, :6, :6].flatten(1)
    ratio = 1.4826 * (corner - corner.median(1, keepdim=True).values).abs().median(1).values / galaxies.numeric[:, 4]
    assert float(ratio.median()) == pytest.approx(1, abs=0.2)


def test_pixels_by_r90_hold_the_flux_of_the_same_field():
    """Rendered in pixels of its own scale, a galaxy is what it is in a frame that has that scale."""
    lat = draw("survey", 4, range(8))
    for row in range(4):
        one = lat.rows(torch.tensor([row]))
        scale = float(3.2 * one.r90 / 64)
        plain = render.clean(one, 64, scale, 4, render.Optics.of(one, scale))
        found = simulate("survey", 4, [row], 64, noise=False, view=View(pixels="r90")).images
        assert float((plain - found).abs().max() / plain.max()) < 1e-3


@pytest.mark.parametrize(("name", "size"), [("sdss", 64), ("decals", 64), ("hsc", 64), ("lsst", 64), ("euclid-vis", 160)])
def test_telescopes_image_the_same_galaxies(name, size):
    view = View(telescope=name)
    found, plain = frame("survey", size, view), frame("survey", size)
    galaxies = simulate("survey", 5, range(32), size, view=view)
    assert found.bands == view.through.bands
    assert galaxies.images.shape == (32, len(found.bands), size, size)
    assert len(found.zero_points) == len(found.sky_rms) == len(found.psf_fwhm) == len(found.bands)
    reference = simulate("survey", 5, range(32), size)
    assert torch.equal(galaxies.numeric[:, :2], reference.numeric[:, :2])
    if name != "sdss":
        assert found.sky_rms[views.main_band(view.through)] < 0.85 * plain.sky_rms[1]
        # Deeper and sharper images show more: their crowds see more features.
        assert float(galaxies.counts[:, 1].sum()) > float(reference.counts[:, 1].sum())


def test_a_resampled_sky_is_correlated_and_as_deep():
    """Pixels half as wide as the telescope's own: less noise in each, as much in a sum over many, shared by neighbours."""
    view = View(field=12.672)
    empty = Recipe("survey", fixed=recipe.fixed({"magnitude": 30, "kind": "spheroid", "stars": 0, "field": 0}), without=("field",))
    galaxies = simulate(empty, 6, range(64), 64, view=view)
    noise = galaxies.images[:, 1] / galaxies.numeric[:, 4, None, None]
    assert float(noise.std()) == pytest.approx(1, abs=0.02)
    neighbours = float((noise[:, :, 1:] * noise[:, :, :-1]).mean())
    assert 0.5 < neighbours < 0.9
    blocks = torch.nn.functional.avg_pool2d(noise[:, None], 16).flatten() * 256
    white = frame("survey", 64, view).sky_rms[1] / (0.024 * 0.5)
    assert float(blocks.std()) == pytest.approx(16 / white, rel=0.1)


def test_what_cannot_be_seen_is_refused():
    with pytest.raises(BadInput, match="telescope hubble: no such telescope; known: decals, euclid-vis, hsc, lsst, sdss"):
        View(telescope="hubble")
    with pytest.raises(
        BadInput, match=r"its PSF of 0.17 arcsec in VIS is below a pixel of 0.8 arcsec.* give a size of at least 113 pixels"
    ):
        frame("survey", 64, View(telescope="euclid-vis"))
    with pytest.raises(BadInput, match="pixels: 'r9'; did you mean r90"):
        View(pixels="r9")
    with pytest.raises(BadInput, match="redshift: 7"):
        View(redshift=7)
    with pytest.raises(BadInput, match="field: -1"):
        View(field=-1)


def test_a_source_is_told_by_its_view():
    plain, deep = (SimulatedSource("survey", 0, 0, 8, 64, view=view).describe() for view in (View(), View("lsst", redshift=0.1)))
    assert "view" not in plain
    assert deep["view"] == {"telescope": "lsst", "redshift": 0.1}


def test_without_stars_nothing_but_the_galaxy_moves():
    lat = without(draw("survey", 3, range(16)), ["field", "trail"])
    far = views.moved(lat, torch.full((16,), 0.1))
    assert float(far.star_flux.max()) <= float(lat.star_flux.max())


def test_seeing_below_a_pixel_is_refused():
    with pytest.raises(BadInput, match=r"telescope sdss: its PSF of 0.417 arcsec in i is below a pixel of 3.2 arcsec"):
        simulate(Recipe("survey", fixed=recipe.fixed({"seeing": 0.3})), 0, [0], 16)


def test_a_wider_field_shows_the_same_galaxy():
    """Patches too: in the same pixels, the middle of a stamp twice as wide is the stamp."""
    spirals = Recipe("atlas", fixed=recipe.fixed({"kind": "disc", "arms": 0.8, "arm_count": 2, "merger": 0}), without=("field", "trail"))
    lat = draw(spirals, 1, range(8))
    stamp, wide = (render.clean(lat, size, 0.625, 1) for size in (64, 128))
    assert float((stamp - wide[..., 32:96, 32:96]).abs().max() / stamp.max()) < 1e-4


@pytest.mark.parametrize("feature", [{"bar": 0.5, "bar_length": 0.8}, {"arms": 0.8, "arm_count": 2}, {"ring": 0.6, "ring_radius": 1.2}])
def test_a_narrower_field_cuts_a_feature_and_squeezes_nothing_in(feature):
    """A stamp that ends inside the galaxy shows the middle of a stamp that does not."""
    plain = {"kind": "disc", "r90": 16, "arms": 0, "arm_count": 0, "bar": 0, "ring": 0, "merger": 0, "knots": 0}
    large = Recipe("atlas", fixed=recipe.fixed(plain | feature), without=("field", "trail"))
    lat = draw(large, 1, range(8))
    stamp, wide = (render.clean(lat, size, 0.8, 1) for size in (16, 128))
    stamp, middle = stamp[..., 3:13, 3:13], wide[..., 59:69, 59:69]  # at the edges light from far outside is missing
    bare = render.clean(without(lat, list(set(feature) & {"bar", "arms", "ring"})), 16, 0.8, 1)[..., 3:13, 3:13]
    assert float((stamp - middle).abs().amax((1, 2, 3)).div(middle.amax((1, 2, 3))).max()) < 0.01
    if "ring" not in feature:  # the stamp ends within it
        assert float((stamp - bare).sum()) > 0.02 * float(bare.sum())


def test_pixels_much_finer_than_the_telescopes_own_are_refused():
    with pytest.raises(BadInput, match=r"a pixel of 0.00313 arcsec is finer than a 64th of its own of 0.396 arcsec.* at least"):
        frame("survey", 64, View(field=0.2))
    frame("survey", 64, View(field=0.4))


def test_a_field_counted_in_r90_is_told_in_r90():
    view = View(pixels="r90", field=40)
    lat = draw("survey", 0, range(32))
    with pytest.raises(BadInput, match=r"is below a pixel of .* or a field of at most [\d.]+ R90") as said:
        views.seen(lat, view, "survey", 32)
    most = float(str(said.value).split("at most ")[1].split(" R90")[0])
    views.seen(lat, View(pixels="r90", field=0.99 * most), "survey", 32)
