"""The question tree: sums, reach, names."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from galaxysd.data.schema import ALIASES, GZ2, Schema, meaning, resolve, schema
from galaxysd.errors import BadInput

COUNTS = st.lists(st.integers(0, 60), min_size=len(GZ2.answers), max_size=len(GZ2.answers))


def test_galaxy_zoo_2_has_11_questions_and_37_answers() -> None:
    assert (len(GZ2.questions), len(GZ2.answers), len(set(GZ2.answers))) == (11, 37, 37)


@given(COUNTS)
def test_fractions_of_an_asked_question_sum_to_1(values: list[int]) -> None:
    counts = torch.tensor(values, dtype=torch.float32)
    fractions, voters = GZ2.fractions(counts), GZ2.voters(counts)
    for question, columns in enumerate(GZ2.slices):
        assert voters[question] == counts[columns].sum()
        total = fractions[columns].sum()
        if voters[question] > 0:
            torch.testing.assert_close(total, torch.tensor(1.0))
        else:
            assert total == 0


@given(COUNTS)
def test_reach_of_the_children_is_what_the_parents_answers_send_on(values: list[int]) -> None:
    fractions = GZ2.fractions(torch.tensor(values, dtype=torch.float64) + 1)
    reach = GZ2.reach(fractions)
    number = {question.name: i for i, question in enumerate(GZ2.questions)}

    def through(answer: str) -> float:
        column = GZ2.index(answer)
        return float(reach[GZ2.owner[column]] * fractions[column])

    for question in GZ2.questions:
        expected = sum(map(through, question.parents)) if question.parents else 1.0
        assert float(reach[number[question.name]]) == pytest.approx(expected)
    # Whoever is asked a question gives one of its answers: nobody is lost on the way down.
    for name, children in (("disk-edge-on", ("edge-on-bulge", "bar")), ("has-spiral-arms", ("spiral-winding",))):
        sent_on = sum(float(reach[number[child]]) for child in children)
        stopped = through("has-spiral-arms_no") if name == "has-spiral-arms" else 0.0
        assert sent_on + stopped == pytest.approx(float(reach[number[name]]))


def test_reach_by_hand() -> None:
    fractions = torch.zeros(len(GZ2.answers))
    given_fractions = {"smooth-or-featured_featured": 0.8, "disk-edge-on_no": 0.5, "has-spiral-arms_yes": 0.25, "something-odd_yes": 0.5}
    for answer, value in {**given_fractions, "smooth-or-featured_smooth": 0.1}.items():
        fractions[GZ2.index(answer)] = value
    reach = dict(zip([question.name for question in GZ2.questions], GZ2.reach(fractions).tolist(), strict=True))
    expected = {"disk-edge-on": 0.8, "bar": 0.4, "spiral-arm-count": 0.1, "something-odd": 0.9, "odd-feature": 0.45, "how-rounded": 0.1}
    assert {name: reach[name] for name in expected} == pytest.approx(expected)


def test_names_and_aliases() -> None:
    assert all(meaning in GZ2.answers for meanings in ALIASES.values() for meaning in meanings)
    assert resolve("bar_yes") == "bar_yes"
    assert resolve("Edge On") == resolve("edge-on") == "disk-edge-on_yes"
    assert schema("gz2") is GZ2


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("round", "'round' is ambiguous: it can mean how-rounded_round or edge-on-bulge_round"),
        ("bar_yess", "'bar_yess': no such answer; did you mean bar_yes"),
        ("", "no such answer"),
    ],
)
def test_a_name_that_means_nothing_or_two_things_is_refused(name: str, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        resolve(name)


def test_unknown_names_say_the_nearest() -> None:
    with pytest.raises(BadInput, match="did you mean gz2"):
        schema("gz")
    with pytest.raises(BadInput, match="did you mean bar"):
        GZ2.number("barr")
    with pytest.raises(BadInput, match="did you mean bar_no"):
        GZ2.index("bar_not")


def test_columns_of_the_published_table_count_our_answers() -> None:
    assert resolve("t01_smooth_or_features_a01_smooth_count") == "smooth-or-featured_smooth"
    assert resolve("t05_bulge_prominence_a13_dominant_count") == "bulge-size_dominant"
    assert resolve("t08_odd_feature_a24_merger_count") == "odd-feature_merger"
    assert resolve("t08_odd_feature_a38_dust_lane_count") == "odd-feature_dust-lane"
    assert resolve("t09_bulge_shape_a25_rounded_count") == "edge-on-bulge_round"
    assert resolve("t11_arms_number_a34_4_count") == "spiral-arm-count_4"
    assert resolve("t11_arms_number_a37_cant_tell_count") == "spiral-arm-count_cant-tell"
    counted = {meaning(f"t{task:02}_x_a{answer:02}_y_count") for task in range(13) for answer in range(40)}
    assert counted == {*GZ2.answers, None}


@pytest.mark.parametrize(
    "name",
    ["t01_smooth_or_features_a01_smooth_fraction", "t02_edgeon_a01_smooth_count", "t11_arms_number_a35_5_count", "t12_new_a39_yes_count"],
)
def test_other_published_columns_count_nothing(name: str) -> None:
    assert meaning(name) is None


def test_a_schema_first_used_for_inference_can_teach() -> None:
    """What it keeps is no tensor of inference mode."""
    fresh = Schema("fresh", GZ2.questions)
    with torch.inference_mode():
        fresh.voters(torch.ones(1, len(GZ2.answers)))
    counts = torch.ones(1, len(GZ2.answers), requires_grad=True)
    fresh.voters(counts).sum().backward()
    assert counts.grad is not None
    assert bool((counts.grad == 1).all())


def test_a_class_of_ones_own_is_a_question_more() -> None:
    tree = schema("gz2+tidal-stream+polar-ring")
    assert tree.own == ("tidal-stream", "polar-ring")
    assert tree.answers == (*GZ2.answers, "tidal-stream_yes", "tidal-stream_no", "polar-ring_yes", "polar-ring_no")
    assert resolve("Tidal stream", tree) == "tidal-stream_yes"
    assert resolve("polar-ring_no", tree) == "polar-ring_no"
    assert resolve("barred", tree) == "bar_yes"
    assert resolve("t05_bulge_prominence_a13_dominant_count", tree) == "bulge-size_dominant"
    assert tree.reach(torch.full((len(tree.answers),), 0.5))[-1] == 1  # asked of every galaxy
    with pytest.raises(BadInput, match=r"'polar rin': no such answer; did you mean polar-ring\?"):
        resolve("polar rin", tree)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gz2+bar", "schema gz2 has that name already"),
        ("gz2+how-rounded", "schema gz2 has that name already"),
        ("gz2+dust lane", "no name for a class"),
        ("gz2+dust-lane", "has that name already"),
        ("gz2+a+a", r"schema gz2\+a has that name already"),
        ("gz2+", "no name for a class"),
        ("gz2+" + "x" * 49, "no name for a class"),
        ("gz2" + "".join(f"+n{i}" for i in range(17)), "17 classes beside schema gz2; at most 16"),
        ("gz3+a", r"gz3: no such label schema; did you mean gz2\?"),
    ],
)
def test_what_cannot_name_a_class_is_refused(name: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        schema(name)
