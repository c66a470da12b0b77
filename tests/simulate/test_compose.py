"""From traits to latents: what is given is kept, hosts hear nothing of their features, arms and knots lie where they should."""

from __future__ import annotations

import math
from dataclasses import fields

import pytest
import torch

from galaxysd.simulate import components, recipe, render
from galaxysd.simulate.compose import compose
from galaxysd.simulate.latents import DISC, DRAWS, EDGE_ON, FEATURES, IRREGULAR, KINDS, SPHEROID, Draws, Latents, has, without
from galaxysd.simulate.populations import POPULATIONS
from galaxysd.simulate.recipe import Recipe, draw
from galaxysd.simulate.survey import simulate
from galaxysd.simulate.traits import BOUNDS, HOSTS, NAMES, Given

ALONE = {"stars": 0, "field": 0, "trail": 99, "merger": 0, "disturbed": 0, "lens": 0, "other": 0}
BARE = {"bar": 0, "arms": 0, "arm_count": 0, "ring": 0, "knots": 0}
# Draws that make a host, and what they make of it. All others are about features: a new draw or latent must be put on one side.
HOST_DRAWS = {
    "kind", "subkind", "absolute", "apparent", "size", "seeing", "sky", "centre", "angle", "axis-ratio", "sersic", "inclination", "bulge",
    "bulge-shape", "height", "warp", "colour", "stars", "star-place", "star-light", "texture", "lopsided", "field", "spikes", "type",
}  # fmt: skip
FEATURE_DRAWS = {
    "bar", "arms", "pitch", "sense", "arm-light", "arm-phase", "arm-weight", "arm-pitch", "lane", "clump-light", "clump-place",
    "clump-width", "clump-weight", "features", "odd", "ring", "mate", "tail", "arc", "cloud", "flocculence", "arm-end", "trail",
}  # fmt: skip
HOST_LATENTS = {
    "index", "kind", "redshift", "magnitude", "r90", "seeing", "sky", "centre", "angle", "core_share", "core_radius", "core_sersic",
    "core_ratio", "core_boxy", "disc_share", "disc_scale", "disc_height", "cos_inclination", "warp", "texture", "star_place", "star_flux",
    "field_place", "field_flux", "field_radius", "field_ratio", "field_angle", "spike_flux", "spike_angle", "spike_length",
}  # fmt: skip
STRENGTHS = ("bar_share", "arm_share", "arm_count", "ring_share", "lane_depth", "mate_share", "tail_share", "arc_share", "cloud_share")


def galaxies(*changed: str, preset: str = "survey", n: int = 1024) -> Latents:
    """Galaxies of a preset, those draws of theirs exchanged for others."""
    d, other = Draws(7, torch.arange(n)), Draws(8, torch.arange(n))
    for name in changed:
        d.table[:, d.columns[name]] = other.table[:, d.columns[name]]
    return compose(d, POPULATIONS[preset](d, Given()))


def one(seed: int = 0, rows: int = 1, preset: str = "atlas", **traits: float | str) -> Latents:
    return draw(Recipe(preset, fixed=recipe.fixed(ALONE | traits)), seed, range(rows))


def test_every_draw_is_the_hosts_or_a_features():
    assert {name for name, _ in DRAWS} == HOST_DRAWS | FEATURE_DRAWS
    assert not HOST_DRAWS & FEATURE_DRAWS
    assert {each.name for each in fields(Latents)} >= HOST_LATENTS


@pytest.mark.parametrize("preset", POPULATIONS)
def test_no_draw_about_a_feature_has_a_say_in_the_host(preset):
    plain, changed = (galaxies(*names, preset=preset) for names in ((), sorted(FEATURE_DRAWS)))
    # An irregular's knots are its body.
    pick = plain.kind != IRREGULAR
    for name in sorted(HOST_LATENTS):
        assert torch.equal(getattr(plain, name)[pick], getattr(changed, name)[pick]), name
    assert torch.equal(plain.colours[pick, :3], changed.colours[pick, :3])
    assert any(not torch.equal(has(plain, name), has(changed, name)) for name in FEATURES)


@pytest.mark.parametrize("preset", POPULATIONS)
def test_no_draw_about_a_host_has_a_say_in_its_features(preset):
    """But for its kind: who has a feature, and how much of it, is the same in hosts of other sizes, colours, skies."""
    plain, changed = (galaxies(*names, preset=preset) for names in ((), sorted(HOST_DRAWS - {"kind", "inclination"})))
    assert torch.equal(plain.kind, changed.kind)
    assert not torch.equal(plain.r90, changed.r90)
    for name in STRENGTHS:
        assert torch.equal(getattr(plain, name), getattr(changed, name)), name


def host_of(name: str) -> dict[str, float | str]:
    """What a galaxy must be to have a trait, and nothing odd beside it."""
    kind = HOSTS.get(name, (SPHEROID if name == "axis_ratio" else DISC,))[0]
    also = {"arms": {"arm_count": 3}, "arm_count": {"arms": 0.5}}.get(name, {"arms": 0, "arm_count": 0} if kind == DISC else {})
    return {other: value for other, value in ALONE.items() if other != name} | {"kind": kind} | also


def legal(name: str, n: int) -> list[float]:
    """Values of a trait between its bounds, none of them nothing."""
    low, high = BOUNDS[name]
    if name == "arm_count":
        return [1.0 + row % 5 for row in range(n)]
    return [low + (high - low) * (row + 1) / (n + 1) for row in range(n)]


@pytest.mark.parametrize("preset", POPULATIONS)
@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("kind", "arm_count")])
def test_a_table_is_kept_number_for_number(name, preset):
    """Where it is silent, in every other row, the galaxy is the one that the preset draws, latent for latent."""
    held = {other: value for other, value in host_of(name).items() if other not in ("arms", "arm_count")}
    values = [value if row % 2 else None for row, value in enumerate(legal(name, 32))]
    table, natural = recipe.tabled(preset, {name: values}, fixed=recipe.fixed(held)), Recipe(preset, fixed=recipe.fixed(held))
    found = getattr(recipe.traits_of(table, Draws(2, torch.arange(32)), torch.arange(32)), name)
    assert found[1::2].tolist() == values[1::2]
    mine, theirs = (draw(each, 2, range(32)) for each in (table, natural))
    for each in fields(Latents):
        assert torch.equal(getattr(mine, each.name)[::2], getattr(theirs, each.name)[::2]), each.name


# What each trait is among the latents.
MEANING = {
    "redshift": lambda lat: lat.redshift, "magnitude": lambda lat: lat.magnitude, "r90": lambda lat: lat.r90,
    "inclination": lambda lat: torch.rad2deg(torch.acos(lat.cos_inclination)), "angle": lambda lat: torch.rad2deg(lat.angle),
    "axis_ratio": lambda lat: lat.core_ratio, "sersic": lambda lat: lat.core_sersic, "bulge": lambda lat: lat.core_share,
    "bar": lambda lat: lat.bar_share, "bar_length": lambda lat: lat.bar_length / lat.r90, "arms": lambda lat: lat.arm_share,
    "arm_count": lambda lat: (lat.arm_weight > 0).sum(1), "flocculence": lambda lat: lat.flocculence, "ring": lambda lat: lat.ring_share,
    "ring_radius": lambda lat: lat.ring_radius / lat.r90, "lane": lambda lat: lat.lane_depth, "merger": lambda lat: lat.mate_share,
    "disturbed": lambda lat: lat.tail_share.sum(1) + lat.arc_share.sum(1), "lens": lambda lat: lat.arc_share.sum(1),
    "other": lambda lat: lat.cloud_share,
    "knots": lambda lat: lat.clump_share, "seeing": lambda lat: lat.seeing, "sky": lambda lat: lat.sky,
}  # fmt: skip


@pytest.mark.parametrize("name", MEANING)
def test_latents_are_what_the_traits_say(name):
    values = legal(name, 32)
    lat = draw(recipe.tabled("survey", {name: values}, fixed=recipe.fixed(host_of(name))), 4, range(32))
    assert MEANING[name](lat).tolist() == pytest.approx(values, rel=1e-4, abs=0.03 if name == "inclination" else 1e-5)


# What follows from each trait beside the latent of its own: a sweep of it moves nothing else.
FOLLOWS = {
    "pitch": {"arm_pitch", "clump_place", "waves"}, "bar": {"bar_share"}, "bar_length": {"bar_length"}, "ring": {"ring_share"},
    "inclination": {"cos_inclination", "core_ratio", "clump_place"}, "angle": {"angle", "clump_place"}, "sersic": {"core_sersic"},
    "bulge": {"core_share", "core_radius", "disc_share"}, "magnitude": {"magnitude"}, "redshift": {"redshift", "colours"},
    "seeing": {"seeing"}, "sky": {"sky"}, "other": {"cloud_share"}, "flocculence": {"flocculence"}, "knots": {"clump_share"},
    "merger": {"mate_share", "mate_radius", "tail_share"}, "disturbed": {"tail_share", "arc_share"}, "lens": {"arc_share"},
    "ring_radius": {"ring_radius"}, "stars": {"star_flux"}, "field": {"field_flux"},
    "red": {"core_share", "core_radius", "disc_share", "colours"}, "arms": {"arm_share", "clump_share"},
    "arm_count": {"arm_count", "arm_phase", "arm_weight", "clump_place"}, "trail": {"trail_flux"},
}  # fmt: skip


@pytest.mark.parametrize("name", FOLLOWS)
def test_a_sweep_moves_nothing_but_what_follows(name):
    low, high = BOUNDS[name]
    low, high = (1, 5) if name == "arm_count" else (low + 0.1 * (high - low), low + 0.6 * (high - low))
    held = {"kind": "disc"} | {"arms": {"arm_count": 2}, "arm_count": {"arms": 0.5}}.get(name, {"arms": 0.5, "arm_count": 2})
    lat = draw(recipe.sweep("survey", 5, name, low, high, 5, fixed=recipe.fixed(held)), 3, range(5))
    moved = {each.name for each in fields(Latents) if not torch.equal(getattr(lat, each.name), getattr(lat, each.name)[:1].expand_as(
        getattr(lat, each.name)))}  # fmt: skip
    assert moved
    assert moved <= FOLLOWS[name]


# Each feature as a table gives it, and how a table says that there is none.
NATURAL = {
    "bar": ({"bar": 0.2}, {"bar": 0}), "arms": ({"arms": 0.7, "arm_count": 2, "knots": 0.05}, {"arms": 0, "arm_count": 0, "knots": 0}),
    "ring": ({"ring": 0.4}, {"ring": 0}), "merger": ({"merger": 0.6}, {"merger": 0}), "disturbed": ({"disturbed": 0.3}, {"disturbed": 0}),
    "lens": ({"lens": 0.1}, {"lens": 0}), "other": ({"other": 0.2}, {"other": 0}),
    "field": ({"stars": 2, "field": 2}, {"stars": 0, "field": 0}), "trail": ({"trail": 21}, {"trail": 99}),
    "dust-lane": ({"lane": 3.0}, {"lane": 0}),
}  # fmt: skip


@pytest.mark.parametrize("preset", ["atlas", "survey"])
@pytest.mark.parametrize("name", [*FEATURES, "dust-lane edge-on"])
def test_a_twin_is_the_galaxy_that_never_had_it(name, preset):
    """The same bytes as where the feature was never drawn, noise and all: what is left of it cannot betray it."""
    kind = {"dust-lane": SPHEROID, "dust-lane edge-on": EDGE_ON}.get(name, DISC)
    name = name.removesuffix(" edge-on")
    alone = {key: value for key, value in ALONE.items() if key not in NATURAL[name][0]} | {"kind": kind}
    there, absent = (recipe.fixed(alone | traits) for traits in NATURAL[name])
    recipes = Recipe(preset, fixed=there), Recipe(preset, fixed=there, without=(name,)), Recipe(preset, fixed=absent)
    kept, twin, natural = (simulate(each, 9, range(32), 48) for each in recipes)
    assert float((kept.images - natural.images).abs().amax((1, 2, 3)).median()) > 5 * float(natural.numeric[:, 4].max())
    if kind == SPHEROID:  # a twin stays on the finer grid of its lane
        off = (twin.images - natural.images).abs().amax((1, 2, 3)) / natural.images.amax((1, 2, 3))
        assert float(off.median()) < 0.003
    else:
        assert torch.equal(twin.images, natural.images)
    assert torch.equal(twin.counts, natural.counts)
    assert torch.equal(twin.numeric, natural.numeric)


def test_light_adds_up_to_the_magnitude():
    """In r every plane counts as it stands: host, bar, arms, ring, knots, companion, tails, arcs and cloud."""
    lat = draw(Recipe("atlas", fixed=recipe.fixed({"r90": 5, "sersic": 1.5})), 12, range(256))
    lat = without(lat.rows(torch.nonzero(lat.kind != KINDS.index("star"))[:, 0]), ["dust-lane", "field", "trail"])
    found = render.clean(lat, 64, 0.8, 12)[:, 1].double().sum((1, 2))
    ratio = found / 10 ** (0.4 * (22.5 - lat.total_magnitude.double()))
    plain = (lat.added == 0) & (lat.kind != IRREGULAR)
    assert int(plain.sum()) > 20
    assert ratio[plain].tolist() == pytest.approx([1] * int(plain.sum()), abs=0.02)
    for name in ("bar", "arms", "ring", "merger", "disturbed", "lens", "other"):
        assert float(ratio[has(lat, name)].median()) == pytest.approx(1, abs=0.03), name
    # A companion is cut at six half-light radii, tails and arcs are not normalised on the grid.
    assert float(ratio.min()) > 0.85
    assert float(ratio.max()) < 1.15


@pytest.mark.parametrize("kind", ["spheroid", "disc"])
def test_half_of_the_light_lies_within_r90_over_2_35(kind):
    lat = one(kind=kind, r90=10, axis_ratio=1, inclination=0, sersic=1, bulge=0, seeing=0.5, **BARE)
    grid = render.Grid.of(256, 0.2)
    light = components.COMPONENTS["bulge" if kind == "spheroid" else "disc"].plane(render.placed(lat, 0, grid))[0].double()
    axis = grid.axis(light.device).double()
    r = torch.sqrt((axis - lat.centre[0, 0]) ** 2 + (axis[:, None] - lat.centre[0, 1]) ** 2)
    inside = float(light[r < 10 / 2.35].sum() * grid.step**2)
    assert inside == pytest.approx(0.5, abs=0.02)


def around(plane: torch.Tensor, lat: Latents, grid: render.Grid, radius: float, n: int = 1440) -> torch.Tensor:
    """A face-on plane along a circle about the galaxy's centre, by angle from its major axis, smoothed over five degrees: [n]."""
    turn = torch.arange(n) * (2 * math.pi / n) + lat.angle[0]
    x = lat.centre[0, 0] + radius * torch.cos(turn)
    y = lat.centre[0, 1] + radius * torch.sin(turn)
    place = torch.stack([x, y], -1) / ((grid.side - 1) / 2 * grid.step)
    ring = torch.nn.functional.grid_sample(plane[None, None], place[None, None], align_corners=True)[0, 0]
    return torch.nn.functional.avg_pool1d(torch.cat([ring[:, -10:], ring, ring[:, :10]], 1), 21, 1)[0]


def armed(count: int, pitch: float, seed: int) -> tuple[Latents, render.Grid, torch.Tensor]:
    """A face-on spiral's arms without patches."""
    shape = {"kind": "disc", "inclination": 0, "r90": 12, "flocculence": 0, "bar": 0, "ring": 0}
    lat = one(seed, **shape, arms=0.6, arm_count=count, pitch=pitch)
    lat = Latents(**{each.name: getattr(lat, each.name) for each in fields(lat)} | {"texture": torch.zeros(1)})
    grid = render.Grid.of(256, 0.16)
    return lat, grid, components.arms(render.placed(lat, seed, grid))[0]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_arms_are_as_many_as_asked_for(count):
    found = []
    for seed in range(9):
        lat, grid, plane = armed(count, 18, seed)
        ring = around(plane, lat, grid, 6.5)
        crests = (ring > ring.roll(1)) & (ring >= ring.roll(-1)) & (ring > 0.15 * ring.max())
        found.append(int(crests.sum()))
    assert found.count(count) >= 4  # of five, two often run into one another
    assert max(found) == count


@pytest.mark.parametrize("pitch", [10, 20, 35])
def test_arms_wind_as_their_pitch_says(pitch):
    """A single arm turns by ln(r2 / r1) / tan(pitch) between two radii."""
    lat, grid, plane = armed(1, pitch, 5)
    inner, outer = 5.5, 7.0
    turns = [around(plane, lat, grid, radius).argmax() * (2 * math.pi / 1440) for radius in (inner, outer)]
    found = torch.remainder(float(lat.arm_sense) * (turns[1] - turns[0]), 2 * math.pi)
    assert float(found) == pytest.approx(math.log(outer / inner) / math.tan(float(lat.arm_pitch[0, 0])), abs=0.04)
    assert math.degrees(float(lat.arm_pitch[0, 0])) == pytest.approx(pitch, rel=0.3)


@pytest.mark.parametrize("inclination", [0, 50])
def test_knots_lie_on_arms(inclination):
    """Within an eighth of a radian of one of them, in the plane of the disc; chance would leave them a quarter turn off."""
    lat = one(rows=64, kind="disc", arms=0.5, arm_count=2, knots=0.05, inclination=inclination, r90=12)
    cos, sin = torch.cos(lat.angle)[:, None], torch.sin(lat.angle)[:, None]
    x, y = lat.clump_place.unbind(-1)
    u, v = x * cos + y * sin, (y * cos - x * sin) / components.slant(lat)[:, None]
    r, turn = torch.sqrt(u**2 + v**2), torch.atan2(v, u)
    wound = lat.arm_sense[:, None, None] / torch.tan(lat.arm_pitch[:, None, :2]) * torch.log(r / lat.disc_scale[:, None])[..., None]
    off = torch.remainder(turn[..., None] - lat.arm_phase[:, None, :2] - wound + math.pi, 2 * math.pi) - math.pi
    assert float(off.abs().amin(-1).max()) < 0.125 + 0.001


def test_a_bar_is_as_long_as_it_says():
    """exp(-|u / L|^3) has a variance of L^2 / Gamma(1/3)."""
    lat = one(kind="disc", inclination=0, r90=14, bar=0.2, bar_length=0.4)
    grid = render.Grid.of(256, 0.16)
    plane = components.bar(render.placed(lat, 0, grid))[0].double()
    axis = grid.axis(plane.device).double()
    x, y = axis - lat.centre[0, 0], axis[:, None] - lat.centre[0, 1]
    turn = float(lat.angle + lat.bar_angle)
    along, across = x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)
    long, thin = (math.sqrt(float((plane * each**2).sum() / plane.sum())) for each in (along, across))
    assert long == pytest.approx(0.4 * 14 / math.sqrt(math.gamma(1 / 3)), rel=0.03)
    assert thin / long == pytest.approx(float(lat.bar_ratio), rel=0.01)


@pytest.mark.parametrize(("name", "slots"), [("stars", 3), ("field", 4)])
def test_the_field_is_as_crowded_as_asked_for(name, slots):
    """Geometric numbers: more than k with probability (m / (1 + m))^(k + 1), up to the slots."""
    for mean in (0, 0.5, 2):
        lat = one(rows=2048, preset="survey", kind="disc", **{name: mean})
        flux = lat.star_flux if name == "stars" else lat.field_flux
        number = (flux[..., 1] > 0).sum(1)
        want = sum((mean / (1 + mean)) ** k for k in range(1, slots + 1))
        assert float(number.float().mean()) == pytest.approx(want, abs=0.08)


def test_dust_goes_with_spheroids_and_edge_on_discs_alone():
    lat = draw("atlas", 1, range(2048))
    assert set(lat.kind[lat.lane_depth > 0].tolist()) == {SPHEROID, EDGE_ON}
    assert bool((lat.fine > 0).eq((lat.lane_depth > 0) | (lat.kind == EDGE_ON)).all())
    assert torch.equal(without(lat, ["dust-lane"]).fine, lat.fine)
