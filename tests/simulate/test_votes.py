"""Votes: conservation along the tree, the fractions they come from, and what each kind of galaxy gets."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from galaxysd.data.schema import GZ2
from galaxysd.simulate import latents, populations, votes
from galaxysd.simulate.latents import KINDS
from galaxysd.simulate.recipe import draw


@pytest.fixture(scope="module")
def crowd() -> tuple[latents.Latents, torch.Tensor]:
    lat = draw("tutorial", 1, range(1024))
    return lat, votes.cast(lat, 1)


def share(lat: latents.Latents, counts: torch.Tensor, pick: torch.Tensor, answer: str) -> float:
    """The mean fraction of an answer among the picked galaxies whose question was asked."""
    column = GZ2.index(answer)
    asked = pick & (GZ2.voters(counts)[:, GZ2.owner[column]] > 0)
    return float(GZ2.fractions(counts)[asked, column].mean())


def test_a_child_question_has_its_parents_votes(crowd):
    _, counts = crowd
    voters = GZ2.voters(counts)
    assert bool((counts == counts.round()).all())
    assert bool((counts >= 0).all())
    assert float(voters[:, 0].min()) >= 5
    assert float(voters[:, 0].max()) <= 60
    for q, question in enumerate(GZ2.questions):
        if question.parents:
            sent = sum(counts[:, GZ2.index(parent)] for parent in question.parents)
            assert torch.equal(voters[:, q], sent), question.name


def test_ideal_fractions_are_fractions():
    for preset in populations.POPULATIONS:
        ideal = votes.ideal(draw(preset, 2, range(512)))
        assert bool((ideal >= 0).all())
        totals = GZ2.voters(ideal.double())
        assert torch.allclose(totals, torch.ones_like(totals), atol=1e-5)


def test_counts_scatter_about_the_ideal():
    """Over many galaxies the votes of the first question average to the fractions they were drawn from."""
    lat = draw("survey", 3, range(2048))
    found = GZ2.fractions(votes.cast(lat, 3))[:, :3].mean(0)
    assert found.tolist() == pytest.approx(votes.ideal(lat)[:, :3].mean(0).tolist(), abs=0.015)


def test_each_kind_gets_its_answers(crowd):
    lat, counts = crowd
    of = {name: lat.kind == number for number, name in enumerate(KINDS)}
    spheroids = of["spheroid"]
    assert share(lat, counts, spheroids & (lat.lane_depth == 0), "smooth-or-featured_smooth") > 0.8
    assert share(lat, counts, spheroids & (lat.core_ratio > 0.86), "how-rounded_round") > 0.8
    assert share(lat, counts, spheroids & (lat.core_ratio > 0.5) & (lat.core_ratio < 0.7), "how-rounded_in-between") > 0.8
    assert share(lat, counts, spheroids & (lat.core_ratio < 0.35), "how-rounded_cigar") > 0.8
    assert share(lat, counts, of["edge-on"], "smooth-or-featured_featured") > 0.7
    assert share(lat, counts, of["edge-on"], "disk-edge-on_yes") > 0.85
    assert share(lat, counts, of["irregular"], "smooth-or-featured_featured") > 0.6
    assert share(lat, counts, of["irregular"], "something-odd_yes") > 0.8
    assert share(lat, counts, of["irregular"], "odd-feature_irregular") > 0.6
    laned = spheroids & (lat.lane_depth > 0)
    assert share(lat, counts, laned, "odd-feature_dust-lane") > 0.6
    armed, barred = lat.arm_count > 0, lat.bar_share > 0.12
    assert share(lat, counts, armed, "has-spiral-arms_yes") > share(lat, counts, of["disc"] & ~armed, "has-spiral-arms_yes") + 0.4
    assert share(lat, counts, barred, "bar_yes") > share(lat, counts, of["disc"] & (lat.bar_share == 0), "bar_yes") + 0.5
    assert share(lat, counts, lat.arm_count == 2, "spiral-arm-count_2") > 0.4
    assert share(lat, counts, armed & (lat.arm_pitch[:, 0] > 0.47), "spiral-winding_loose") > 0.5
    assert share(lat, counts, armed & (lat.arm_pitch[:, 0] < 0.19), "spiral-winding_tight") > 0.5


def test_what_cannot_be_seen_is_not_voted_for():
    """The same spirals, small and in poor seeing, lose their arms."""
    lat = draw("tutorial", 4, range(256))
    far = replace(lat, r90=lat.r90 / 4, magnitude=lat.magnitude + 3)
    arms = GZ2.index("has-spiral-arms_yes")
    pick = lat.arm_count > 0
    assert float(votes.ideal(far)[pick, arms].mean()) < 0.6 * float(votes.ideal(lat)[pick, arms].mean())


def test_grades_are_a_gaussian_doubt_about_the_parameter():
    shares = votes.graded(torch.tensor([0.0, 1.0, -5.0]), (0.0, 2.0), 0.5)
    assert shares[0].tolist() == pytest.approx([0.5, 0.5, 0.0], abs=1e-4)
    assert shares[1].tolist() == pytest.approx([0.0228, 0.9545, 0.0228], abs=1e-3)
    assert shares[2].tolist() == pytest.approx([1, 0, 0], abs=1e-6)
