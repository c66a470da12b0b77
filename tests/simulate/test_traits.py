"""What a person may say of a galaxy, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch

from galaxysd.errors import BadInput
from galaxysd.simulate import recipe, traits
from galaxysd.simulate.latents import DISC, KINDS, SPHEROID
from galaxysd.simulate.traits import BOUNDS, HOSTS, NAMES, Given


def test_every_trait_has_bounds():
    assert set(BOUNDS) == set(NAMES)
    assert set(HOSTS) <= set(NAMES)


def test_what_is_given_replaces_what_was_drawn_and_nan_leaves_it():
    given = Given({"r90": torch.tensor([9.0, math.nan])})
    assert given("r90", torch.tensor([1.0, 2.0])).tolist() == [9.0, 2.0]
    assert given("bar", torch.tensor([1.0, 2.0])).tolist() == [1.0, 2.0]
    kind = Given({"kind": torch.tensor([math.nan, 1.0])})("kind", torch.tensor([3, 3]))
    assert kind.tolist() == [3, 1]
    assert kind.dtype == torch.int64


def test_kinds_are_named_or_numbered():
    found = traits.column("kind", ["disc", "0", None, "star"])
    assert found[[0, 1, 3]].tolist() == [KINDS.index("disc"), SPHEROID, KINDS.index("star")]
    assert math.isnan(float(found[2]))


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("kind", ["xyz"], "latent kind: 'xyz'; known: disc, edge-on, irregular, spheroid, star"),
        ("kind", ["dics"], "did you mean disc"),
        ("r90", [10, -2], "latent r90: -2 in row 1; it lies between 0.3 and 600"),
        ("r90", ["wide"], "latent r90: 'wide' is not a number"),
        ("arm_count", [2.5], "latent arm_count: must be whole"),
        ("barr", [0.1], r"latent barr: no such latent of a galaxy; did you mean bar\?"),
        ("bar", [math.inf], "latent bar: inf in row 0"),
    ],
)
def test_bad_columns_are_refused(name, values, words):
    with pytest.raises(BadInput, match=words):
        traits.column(name, values)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (
            {"kind": ["spheroid"], "axis_ratio": [0.25], "bar": [0.2]},
            "latent bar: 0.2 in row 0, whose kind is cigar; only a disc can have it",
        ),
        ({"kind": ["disc", "edge-on"], "arms": [0.5, 0.5], "arm_count": [2, 2]}, "latent arms: 0.5 in row 1, whose kind is edge-on"),
        ({"kind": ["irregular"], "ring": [0.2]}, "latent ring: 0.2 in row 0, whose kind is irregular"),
        ({"kind": ["disc"], "lane": [2]}, "only a spheroid or edge-on can have it, so give kind=spheroid or lane=0"),
        ({"kind": ["star"], "merger": [0.5]}, "latent merger: 0.5 in row 0, whose kind is star"),
        ({"kind": ["disc"], "arms": [0.4], "arm_count": [0]}, "latent arms: 0.4 of the light in 0 arms"),
        ({"r90": [30]}, "latent r90: 30 arcsec in row 0 lies beyond a stamp of 40 arcsec"),
    ],
)
def test_contradictions_are_refused_with_both_values(columns, words):
    with pytest.raises(BadInput, match=words):
        recipe.block(recipe.tabled("tutorial", columns), 0, 0, 40.0)


def test_zero_is_never_a_contradiction():
    lat = recipe.draw(recipe.tabled("atlas", {"kind": ["spheroid"] * 4, "bar": [0] * 4, "ring": [0] * 4}), 0, range(4))
    assert (lat.kind == SPHEROID).all()
    assert (lat.kind != DISC).all()


def test_a_row_is_told_by_its_number_in_the_table():
    columns = {"kind": ["disc"] * 40 + ["spheroid"], "bar": [0.2] * 41}
    with pytest.raises(BadInput, match=r"latent bar: 0.2 in row 40, whose kind is"):
        recipe.draw(recipe.tabled("survey", columns), 0, [40])


def test_nothing_is_said_of_rows_beyond_the_table():
    """A table of three discs, all barred: the rest of their block is not in the table."""
    bars = recipe.tabled("survey", {"kind": ["disc"] * 3}, fixed=recipe.fixed({"bar": 0.2}))
    assert recipe.draw(bars, 0, range(3)).kind.tolist() == [DISC] * 3


def test_an_edge_on_disc_seen_from_above_is_refused():
    with pytest.raises(BadInput, match="latent inclination: 10 degrees in row 0, whose kind is edge-on"):
        recipe.draw(recipe.tabled("atlas", {"kind": ["edge-on"], "inclination": [10]}), 0, [0])
