"""Features and twins: what taking one away changes, and that lengths scale together."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch

from galaxysd.errors import BadInput
from galaxysd.simulate import latents, recipe, render
from galaxysd.simulate.latents import DISC, FEATURES, STAR, Latents, has, without
from galaxysd.simulate.recipe import Recipe, draw

OWN = {
    "bar": {"bar_share"},
    "arms": {"arm_share", "arm_count", "arm_weight", "clump_share"},
    "ring": {"ring_share"},
    "dust-lane": {"lane_depth"},
    "merger": {"mate_share", "tail_share"},
    "disturbed": {"tail_share", "arc_share"},
    "lens": {"arc_share"},
    "other": {"cloud_share"},
    "field": {"star_flux", "field_flux"},
    "trail": {"trail_flux"},
}


@pytest.fixture(scope="module")
def atlas() -> Latents:
    return draw("atlas", 3, range(2048))


@pytest.mark.parametrize("name", FEATURES)
def test_a_twin_lacks_the_feature_and_nothing_else(atlas, name):
    there = has(atlas, name)
    assert 8 <= int(there.sum()) < len(atlas)
    twin = without(atlas, [name])
    assert not bool(has(twin, name).any())
    changed = {each.name for each in fields(Latents) if not torch.equal(getattr(twin, each.name), getattr(atlas, each.name))}
    assert changed <= OWN[name]
    assert changed
    untouched = ~there
    for field in changed:
        assert torch.equal(getattr(twin, field)[untouched], getattr(atlas, field)[untouched]), field
    assert all(torch.equal(getattr(without(twin, [name]), field), getattr(twin, field)) for field in changed)


def test_an_irregular_keeps_its_knots_and_a_star_its_light(atlas):
    twin = without(atlas, ["arms", "field"])
    assert torch.equal(twin.clump_share[atlas.kind != DISC], atlas.clump_share[atlas.kind != DISC])
    assert float(twin.star_flux[atlas.kind == STAR, 0].min()) > 0


def test_taking_two_features_is_taking_one_and_then_the_other(atlas):
    both, other = without(atlas, ["merger", "bar"]), without(without(atlas, ["bar"]), ["merger"])
    assert all(torch.equal(getattr(both, each.name), getattr(other, each.name)) for each in fields(Latents))


def test_features_add_to_the_host_and_dust_does_not():
    lat = draw("atlas", 4, range(512))
    bare = without(lat, FEATURES)
    assert torch.equal(bare.total_magnitude, bare.magnitude)
    assert torch.equal(bare.magnitude, lat.magnitude)
    assert bool((lat.total_magnitude <= lat.magnitude).all())
    assert torch.equal(without(lat, ["dust-lane"]).total_magnitude, lat.total_magnitude)


def test_scaled_galaxies_on_a_scaled_grid_are_the_same_image():
    """Every length is in LENGTHS: one that is not would stay behind."""
    lat = without(draw("atlas", 5, range(64)), ["trail"])
    factor = torch.full((64,), 4.0)  # exact in floating point
    plain = render.clean(lat, 32, 1.25, 5)
    optics = render.Optics.of(lat, 1.25)
    large = render.clean(lat.scaled(factor), 32, 5.0, 5, render.Optics(optics.telescope, 4 * optics.fwhm, optics.pixel_arcsec))
    assert float((plain - large).abs().max() / plain.max()) < 1e-5
    assert float((plain - render.clean(lat.scaled(factor), 32, 1.25, 5)).abs().max() / plain.max()) > 0.1


def test_new_draws_at_the_end_disturb_no_galaxy(monkeypatch):
    before = latents.Draws(1, torch.arange(8)).table
    monkeypatch.setattr(latents, "DRAWS", (*latents.DRAWS, ("later", 7)))
    after = latents.Draws(1, torch.arange(8)).table
    assert torch.equal(after[:, : before.shape[1]], before)
    assert after.shape[1] == before.shape[1] + 7


def test_an_unknown_feature_is_refused(atlas):
    with pytest.raises(BadInput, match=r"feature bars: no such feature; did you mean bar\?"):
        without(atlas, ["bars"])


def test_of_a_merger_that_is_disturbed_and_a_lens_each_can_be_taken():
    lat = draw(Recipe("atlas", fixed=recipe.fixed({"kind": "disc", "merger": 0.5, "disturbed": 0.3, "other": 0})), 0, range(8))
    lens = draw(Recipe("atlas", fixed=recipe.fixed({"kind": "disc", "lens": 0.1, "disturbed": 0.3})), 0, range(8))
    assert all(bool(has(each, "disturbed").all()) for each in (lat, lens))
    for one, other in (("merger", "disturbed"), ("lens", "disturbed")):
        for each in (lat, lens):
            first, second = without(each, [one, other]), without(each, [other, one])
            assert all(torch.equal(getattr(first, field.name), getattr(second, field.name)) for field in fields(Latents))
    assert float(without(lat, ["merger", "disturbed"]).tail_share.abs().max() + without(lat, ["merger", "disturbed"]).arc_share.max()) == 0
    assert float(without(lens, ["lens"]).tail_share.min()) > 0
    assert float(without(lens, ["disturbed"]).arc_share.min()) > 0


def test_what_is_asked_for_leaves_no_room_for_another_oddity():
    lat = draw(Recipe("atlas", fixed=recipe.fixed({"kind": "disc", "merger": 0.5})), 0, range(512))
    assert not bool((has(lat, "disturbed") | has(lat, "lens") | has(lat, "other")).any())
