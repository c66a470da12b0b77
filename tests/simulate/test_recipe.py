"""Tables, sweeps, poses and twins of populations; hosts that do not know of their features."""

from __future__ import annotations

import math
from dataclasses import fields

import pytest
import torch
from scipy.stats import ks_2samp

from galaxysd.errors import BadInput
from galaxysd.simulate import recipe
from galaxysd.simulate.latents import DISC, EDGE_ON, IRREGULAR, SPHEROID, Latents, has
from galaxysd.simulate.recipe import Recipe, draw
from galaxysd.simulate.survey import simulate


def test_a_table_is_obeyed_and_what_it_leaves_open_is_drawn():
    table = {"r90": [7.0, None, 12.0], "magnitude": [16.0, 15.0, math.nan], "kind": ["disc", "disc", "edge-on"]}
    mine, natural = draw(recipe.tabled("survey", table), 3, range(3)), draw("survey", 3, range(3))
    assert mine.r90[[0, 2]].tolist() == [7.0, 12.0]
    assert mine.magnitude[:2].tolist() == [16.0, 15.0]
    assert mine.kind.tolist() == [DISC, DISC, EDGE_ON]
    assert torch.equal(mine.seeing, natural.seeing)
    assert torch.equal(mine.star_place, natural.star_place)


def test_later_draws_follow_what_was_given():
    """A disc that was asked for has a disc's light, and an edge-on one is seen from its side, whatever was drawn first."""
    for kind, index in (("disc", DISC), ("edge-on", EDGE_ON), ("irregular", IRREGULAR)):
        lat = draw(Recipe("survey", fixed=recipe.fixed({"kind": kind})), 0, range(64))
        assert (lat.kind == index).all()
        assert bool(((lat.disc_share > 0) == (kind != "irregular")).all())
    discs, edges = (draw(Recipe("survey", fixed=recipe.fixed({"kind": each})), 0, range(256)) for each in ("disc", "edge-on"))
    assert float(edges.cos_inclination.max()) <= 0.2
    assert float(discs.cos_inclination.min()) >= 0.2


def test_a_sweep_changes_one_latent_of_one_galaxy():
    swept = recipe.sweep("tutorial", 40, "r90", 6.0, 12.0, 7, fixed=recipe.fixed({"kind": "spheroid", "magnitude": 15}))
    lat = draw(swept, 1, range(7))
    assert lat.r90.tolist() == pytest.approx(torch.linspace(6, 12, 7).tolist())
    follow = {"core_radius", "disc_scale", "lane_width", "lane_length", "lane_offset", "arm_width", "arm_begin", "arm_end", "ring_radius",
              "ring_width", "bar_length", "clump_place", "clump_width", "warp", "mate_place", "mate_radius", "tail_reach", "tail_width",
              "arc_radius", "arc_width", "cloud_place", "cloud_width", "spike_length", "r90"}  # fmt: skip
    for each in fields(Latents):
        values = getattr(lat, each.name)
        if each.name not in follow:
            assert torch.equal(values, values[:1].expand_as(values)), each.name
    galaxies = simulate(swept, 1, range(7), 32)
    noise = galaxies.images - simulate(swept, 1, range(7), 32, noise=False).images
    corner = noise[:, 1, :4, :4]
    assert float((corner - corner[:1]).abs().max()) < 0.05 * float(corner.std())
    assert galaxies.index.tolist() == list(range(7))
    assert len(set(galaxies.ids)) == 7


def test_poses():
    aligned, random = (draw(Recipe("survey", pose=pose), 2, range(512)) for pose in ("aligned", "random"))
    assert float(torch.sin(aligned.angle).abs().max()) < 0.2
    assert float(torch.stack([torch.cos(2 * random.angle), torch.sin(2 * random.angle)]).mean(1).norm()) < 0.1
    turned = draw(Recipe("tutorial", pose="random"), 2, range(512))
    assert torch.equal(turned.r90, draw("tutorial", 2, range(512)).r90)
    assert float(torch.sin(turned.angle).abs().max()) > 0.9


HOST = ("magnitude", "r90", "redshift", "seeing", "sky", "core_sersic", "core_share", "core_ratio", "disc_share", "cos_inclination")
ELIGIBLE = {"bar": (DISC,), "arms": (DISC,), "ring": (DISC,), "dust-lane": (SPHEROID,), "merger": (SPHEROID, DISC), "other": (DISC,)}


@pytest.mark.parametrize("preset", ["atlas", "survey"])
def test_hosts_do_not_know_of_their_features(preset):
    """Kolmogorov and Smirnov see no difference between hosts with a feature and without, in sixty comparisons."""
    lat = draw(preset, 6, range(8192))
    worst: tuple[float, str] = (1.0, "")
    for name, kinds in ELIGIBLE.items():
        there = has(lat, name)
        for kind in kinds:
            host = lat.kind == kind
            for field in HOST:
                values = getattr(lat, field)
                found = ks_2samp(values[host & there].numpy(), values[host & ~there].numpy()).pvalue
                worst = min(worst, (float(found), f"{name} {field}"))
    assert worst[0] > 1e-4, worst


def test_bad_recipes_are_refused():
    with pytest.raises(BadInput, match="the table has no rows"):
        recipe.tabled("survey", {"r90": []})
    with pytest.raises(BadInput, match="the table has no columns"):
        recipe.tabled("survey", {})
    with pytest.raises(BadInput, match="columns of 1 and of 2 rows"):
        recipe.tabled("survey", {"r90": [9, 8], "bar": [0]})
    with pytest.raises(BadInput, match="fixed for every galaxy and given for each"):
        recipe.tabled("survey", {"r90": [9]}, fixed=recipe.fixed({"r90": 8}))
    with pytest.raises(BadInput, match="pose: 'alined'; did you mean aligned"):
        Recipe("survey", pose="alined")
    with pytest.raises(BadInput, match="a sweep has at least 2"):
        recipe.sweep("survey", 0, "r90", 6, 9, 1)
    with pytest.raises(BadInput, match="index 3: the table of latents has 2 rows"):
        simulate(recipe.tabled("survey", {"r90": [9, 8]}), 0, [3], 32)
    with pytest.raises(BadInput, match="feature bars"):
        Recipe("survey", without=("bars",))


def test_a_description_tells_recipes_apart():
    told = [
        Recipe(),
        Recipe("atlas"),
        Recipe(pose="aligned"),
        Recipe(without=("bar",)),
        Recipe(same=3),
        Recipe(fixed=(("r90", 9.0),)),
        recipe.tabled("survey", {"r90": [9]}),
        recipe.tabled("survey", {"r90": [8]}),
    ]
    found = [str(each.describe()) for each in told]
    assert len(set(found)) == len(found)
    assert Recipe().describe() == {"simulated": "survey"}
