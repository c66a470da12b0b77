"""What can be asked for, how it is written, and what the network sees of it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from galaxysd.config import ConditionConfig
from galaxysd.data import conditions
from galaxysd.data.conditions import Conditions, parse_ask, parse_numbers, parse_votes
from galaxysd.data.galaxies import NUMERIC
from galaxysd.data.schema import GZ2, schema
from galaxysd.errors import BadInput

A, Q, N = len(GZ2.answers), len(GZ2.questions), len(NUMERIC)


def asked(row: Conditions) -> dict[str, float]:
    """The conditional fractions of the questions that are asked."""
    known = GZ2.voters(row.counts)[0, GZ2.owner] > 0
    return {name: round(value, 4) for name, value, on in zip(GZ2.answers, GZ2.fractions(row.counts)[0].tolist(), known, strict=True) if on}


def test_nothing_known_is_the_zero_vector() -> None:
    features = conditions.encode(Conditions.unknown(3), GZ2)
    assert features.shape == (3, conditions.width(GZ2))
    assert not features.any()


def test_the_encoding_by_hand() -> None:
    row = Conditions.unknown(1)
    row.counts[0, GZ2.index("bar_yes")], row.counts[0, GZ2.index("bar_no")] = 3, 1
    row.numeric[0, NUMERIC.index("magnitude")] = 17.2
    features = conditions.encode(row, GZ2)[0]
    expected = torch.zeros(conditions.width(GZ2))
    expected[GZ2.index("bar_yes")], expected[GZ2.index("bar_no")] = 0.75, 0.25
    expected[A + 2], expected[A + Q + 2] = 1.0, math.log(5) / math.log(41)
    expected[A + 2 * Q + 1], expected[A + 2 * Q + N + 1] = 1.0, 1.0
    torch.testing.assert_close(features, expected)


def test_how_many_voted_makes_a_difference_and_zero_noise_is_finite() -> None:
    few, many = parse_votes("bar_yes=0.5", 10)[0], parse_votes("bar_yes=0.5", 40)[0]
    assert not torch.equal(conditions.encode(few, GZ2), conditions.encode(many, GZ2))
    none = Conditions(torch.zeros(1, A), torch.zeros(1, N))
    assert conditions.encode(none, GZ2).isfinite().all()


def test_dropping_is_keyed_by_index_alone(make: Any) -> None:
    known = conditions.of(make(50))
    config = ConditionConfig(drop_all=0.2, drop_question=0.3)
    whole = conditions.dropped(known, config, 1, range(50), GZ2)
    pick = torch.tensor([31, 4, 17])
    some = conditions.dropped(known.rows(pick), config, 1, pick, GZ2)
    assert torch.equal(some.counts, whole.counts[pick])
    assert torch.equal(some.numeric.isnan(), whole.numeric.isnan()[pick])
    assert not torch.equal(conditions.dropped(known, config, 2, range(50), GZ2).counts, whole.counts)


def test_dropping_happens_as_often_as_configured() -> None:
    n = 20_000
    known = Conditions(torch.ones(n, A), torch.ones(n, N))
    dropped = conditions.dropped(known, ConditionConfig(drop_all=0.2, drop_question=0.1), 0, range(n), GZ2)
    voters = GZ2.voters(dropped.counts) > 0
    empty = ~voters.any(1) & dropped.numeric.isnan().all(1)
    assert float(empty.double().mean()) == pytest.approx(0.2, abs=0.02)
    # 1 - (1 - 0.2) * (1 - 0.1) of all questions, and of all numbers.
    assert float((~voters).double().mean()) == pytest.approx(0.28, abs=0.02)
    assert float(dropped.numeric.isnan().double().mean()) == pytest.approx(0.28, abs=0.02)
    # A question goes as a whole, and prompts that keep only a few questions occur.
    assert torch.equal(dropped.counts > 0, voters[:, GZ2.owner])
    few = voters.sum(1)
    assert ((few > 0) & (few < 4)).sum() > n // 1000
    assert torch.equal(known.counts, torch.ones(n, A))


@pytest.mark.parametrize(("drop_all", "drop_question", "left"), [(0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)])
def test_the_ends_of_dropping(drop_all: float, drop_question: float, left: float) -> None:
    known = Conditions(torch.ones(40, A), torch.ones(40, N))
    dropped = conditions.dropped(known, ConditionConfig(drop_all=drop_all, drop_question=drop_question), 0, range(40), GZ2)
    assert torch.equal(dropped.counts, known.counts * left)


def test_votes_with_their_ancestors() -> None:
    row, filled = parse_votes("has-spiral-arms_yes=0.9, spiral-arm-count_2=0.8", 40)
    assert asked(row) == {
        "smooth-or-featured_smooth": 0.025,
        "smooth-or-featured_featured": 0.95,
        "smooth-or-featured_artifact": 0.025,
        "disk-edge-on_yes": 0.05,
        "disk-edge-on_no": 0.95,
        "has-spiral-arms_yes": 0.9,
        "has-spiral-arms_no": 0.1,
        **dict.fromkeys(GZ2.questions[10].canonical, 0.04),
        "spiral-arm-count_2": 0.8,
    }
    assert [line.partition(":")[0] for line in filled] == ["smooth-or-featured", "disk-edge-on"]
    assert "disk-edge-on_no=0.95" in filled[1]
    # As in a real walk down the tree, fewer volunteers reach a later question.
    voters = GZ2.voters(row.counts)[0]
    assert voters[[0, 1, 3, 10]].tolist() == pytest.approx([40, 38, 36.1, 32.49])


def test_words_mean_the_same_as_votes() -> None:
    for words, votes in (
        ("barred spiral, 2 arms", "bar_yes=0.9,has-spiral-arms_yes=0.9,spiral-arm-count_2=0.9"),
        ("edge on", "disk-edge-on_yes=0.9"),
        ("No Spiral", "has-spiral-arms_no=0.9"),
        ("dust lane elliptical", "odd-feature_dust-lane=0.9,smooth=0.9"),
    ):
        (ask, ask_filled), (vote, vote_filled) = parse_ask(words, 30), parse_votes(votes, 30)
        assert torch.equal(ask.counts, vote.counts)
        assert ask_filled == vote_filled


def test_an_ancestor_with_two_ways_in_is_left_open() -> None:
    """A merger may be smooth or featured: half of each would ask for a galaxy that volunteers could not agree on."""
    row, filled = parse_ask("merger")
    assert float(GZ2.voters(row.counts)[0, 0]) == 0
    assert float(GZ2.voters(row.counts)[0, GZ2.number("odd-feature")]) == pytest.approx(40 * 0.95 * 0.95)
    assert "smooth-or-featured: left open" in filled[0]
    only_disks = asked(parse_ask("merger, edge-on")[0])
    assert only_disks["smooth-or-featured_featured"] == 0.95


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("bar_yes=1.2", "bar_yes: 1.2 is not a fraction"),
        ("bar_yes=-0.1", "bar_yes: -0.1 is not a fraction"),
        ("bar_yes=nan", "bar_yes: nan is not a fraction"),
        ("bar_yes=much", "bar_yes: 'much' is not a number"),
        ("bar_yes", "'bar_yes' has no value"),
        ("", "votes: empty"),
        ("bar_yse=0.5", "did you mean bar_yes"),
        ("round=0.5", "ambiguous: it can mean how-rounded_round or edge-on-bulge_round"),
        ("bar_yes=0.7,bar_no=0.6", r"bar: bar_yes=0.7, bar_no=0.6 sum to 1.3, more than 1"),
        ("bar_yes=0.3,bar_no=0.6", r"bar: bar_yes=0.3, bar_no=0.6 are all its answers and sum to 0.9"),
        ("bar_yes=0.3,barred=0.6", "bar_yes: asked to be 0.3 and 0.6"),
        ("smooth=1,spiral=1", "smooth-or-featured_smooth=1 leaves 0 for smooth-or-featured_featured, but has-spiral-arms_yes=1"),
        ("disk-edge-on_no=0,bar_yes=0.8", "disk-edge-on_no=0 leaves 0 for disk-edge-on_no, but bar_yes=0.8"),
        ("cigar=0.9,edge-on=0.8", r"smooth-or-featured: disk-edge-on_yes=0.8 needs .*featured=0.95; how-rounded_cigar=0.9 needs .*smooth"),
    ],
)
def test_votes_that_cannot_be_name_the_question_and_both_values(text: str, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        parse_votes(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("2 arms, 3 arms", "spiral-arm-count_2=0.9, spiral-arm-count_3=0.9 sum to 1.8"),
        ("barred sprial", "'sprial': no such answer; did you mean spiral"),
        (" , ", "ask: empty"),
    ],
)
def test_words_that_cannot_be(text: str, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        parse_ask(text)


def test_nobody_cannot_vote() -> None:
    with pytest.raises(BadInput, match="voters: 0"):
        parse_votes("bar_yes=0.5", 0)


@given(st.dictionaries(st.sampled_from(GZ2.answers), st.floats(0, 1), min_size=1, max_size=3), st.floats(1, 100))
def test_whatever_is_accepted_is_a_whole_tree(given_votes: dict[str, float], voters: float) -> None:
    text = ",".join(f"{name}={value!r}" for name, value in given_votes.items())
    try:
        row, filled = parse_votes(text, voters)
    except BadInput:
        return
    fractions, reached = GZ2.fractions(row.counts), GZ2.voters(row.counts)[0]
    is_open = any(line.startswith("smooth-or-featured: left open") for line in filled)
    torch.testing.assert_close(reached[0], torch.tensor(0.0 if is_open else float(voters)), rtol=1e-5, atol=0)
    for name, value in given_votes.items():
        if reached[GZ2.owner[GZ2.index(name)]] > 1e-30:
            assert float(fractions[0, GZ2.index(name)]) == pytest.approx(value, abs=1e-4)


def test_numbers() -> None:
    found = parse_numbers("magnitude=16.5, redshift=0.05")[0]
    assert found[:2].tolist() == pytest.approx([0.05, 16.5])
    assert found[2:].isnan().all()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("mangitude=1", "did you mean magnitude"),
        ("redshift=-0.1", "redshift: -0.1 is not possible"),
        ("magnitude=inf", "magnitude: inf is not possible"),
        ("magnitude=16,magnitude=17", "magnitude: asked to be 16 and 17"),
        ("magnitude", "has no value"),
    ],
)
def test_numbers_that_cannot_be(text: str, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        parse_numbers(text)


def test_like_asks_for_the_same_and_refuses_nothing_to_ask(make: Any) -> None:
    galaxies = make(3)
    assert torch.equal(conditions.like(galaxies).counts, galaxies.counts)
    assert not conditions.asked(galaxies).counts.any()
    galaxies.counts, galaxies.numeric = torch.zeros(3, A), torch.full((3, N), math.nan)
    with pytest.raises(BadInput, match="nothing to be like"):
        conditions.like(galaxies)


def test_every_feature_has_a_name():
    tree = schema("gz2+tidal-stream")
    names = conditions.names(tree)
    assert len(set(names)) == len(names) == conditions.width(tree)
    known = conditions.Conditions.unknown(1, tree)
    known.counts[0, tree.index("tidal-stream_yes")], known.numeric[0, 1] = 40.0, 17.0
    seen = {name for name, value in zip(names, conditions.encode(known, tree)[0].tolist(), strict=True) if value}
    assert seen == {"tidal-stream_yes", "known tidal-stream", "voters tidal-stream", "magnitude", "known magnitude"}
