from __future__ import annotations

import pytest
import torch
from torch import Tensor

from galaxysd import seeds
from galaxysd.data.galaxies import Frame
from galaxysd.data.schema import GZ2
from galaxysd.evaluate import conditional
from galaxysd.evaluate.conditional import CLASSES, REPORTED, agreement, flux_ratio, fractions, same_mix
from galaxysd.evaluate.features import Described

ODD, SMOOTH, FEATURED = GZ2.index("something-odd_yes"), GZ2.index("smooth-or-featured_smooth"), GZ2.index("smooth-or-featured_featured")
PATHS = {
    "smooth round": {"smooth-or-featured_smooth": 40, "something-odd_no": 40, "how-rounded_round": 40},
    "cigar": {"smooth-or-featured_smooth": 40, "something-odd_no": 40, "how-rounded_cigar": 40},
    "edge-on": {"smooth-or-featured_featured": 40, "something-odd_no": 40, "disk-edge-on_yes": 40},
    "irregular": {"smooth-or-featured_featured": 40, "disk-edge-on_no": 40, "something-odd_yes": 40, "odd-feature_irregular": 40},
}


def votes(*names: str) -> Tensor:
    counts = torch.zeros(len(names), len(GZ2.answers))
    for row, name in enumerate(names):
        for answer, count in PATHS[name].items():
            counts[row, GZ2.index(answer)] = count
    return counts


def seen(counts: Tensor) -> Tensor:
    """What a judge who sees these votes says: a view on every question, the unasked ones even."""
    even = torch.cat([torch.full((len(q.answers),), 1 / len(q.answers)) for q in GZ2.questions])
    known = GZ2.voters(counts)[:, GZ2.owner] > 0
    return torch.where(known, 0.1 * even + 0.9 * GZ2.fractions(counts), even)


def described(
    counts: Tensor,
    judged: Tensor | None = None,
    asked: Tensor | None = None,
    numeric: Tensor | None = None,
    asked_numeric: Tensor | None = None,
    properties: dict[str, Tensor] | None = None,
    frame: Frame | None = None,
) -> Described:
    n = len(counts)
    unknown = torch.full((n, 5), torch.nan)
    return Described(
        frame or Frame("flux", 32),
        [str(row) for row in range(n)],
        counts,
        unknown if numeric is None else numeric,
        asked,
        asked_numeric,
        properties or {},
        torch.zeros(n, 3, 16, 16),
        judged,
        None,
    )


def test_an_answer_is_found_when_its_whole_path_wins() -> None:
    counts = votes(*PATHS)
    columns = [GZ2.index(CLASSES[name]) for name in PATHS]
    assert torch.equal(GZ2.winners(counts)[:, columns], torch.eye(4, dtype=torch.bool))
    assert torch.equal(GZ2.winners(seen(counts))[:, columns], torch.eye(4, dtype=torch.bool))


def test_a_lost_ancestor_loses_the_answer_and_either_parent_will_do() -> None:
    irregular = GZ2.index("odd-feature_irregular")
    smooth, featured, artifact = votes("irregular", "irregular", "irregular").unbind(0)
    smooth[SMOOTH], smooth[FEATURED] = 40, 0
    artifact[GZ2.index("smooth-or-featured_artifact")] = 41
    found = GZ2.winners(torch.stack((smooth, featured, artifact)))
    assert found[:, irregular].tolist() == [True, True, False]
    even = votes("irregular")
    even[0, GZ2.index("something-odd_no")] = 41
    assert not GZ2.winners(even)[0, irregular]


def test_a_request_need_not_spell_out_its_ancestors() -> None:
    counts = torch.zeros(2, len(GZ2.answers))
    counts[:, GZ2.index("how-rounded_cigar")] = 36
    counts[1, FEATURED] = 40
    assert GZ2.winners(counts)[:, GZ2.index("how-rounded_cigar")].tolist() == [True, False]


def survey(n: int, seed: int) -> Tensor:
    names = list(PATHS)
    return votes(*[names[k] for k in (seeds.uniform(seed, "class", range(n)) * 4).long().tolist()])


def test_an_obedient_model_reaches_the_judges_rate_and_shuffled_requests_fall_to_chance() -> None:
    own, asked = survey(400, 0), votes(*[name for name in PATHS for _ in range(50)])
    found = agreement(described(torch.zeros_like(asked), seen(asked), asked), described(own, seen(own)), 0)
    assert found is not None
    assert set(found["classes"]) == set(PATHS)
    assert found["rows"] == 200
    assert found["generated"] == {"hits": 200, "rows": 200, "rate": 1.0, "interval": found["generated"]["interval"]}
    assert found["mean_ratio"] == 1.0
    assert found["chance"] == pytest.approx(0.25)
    assert found["shuffled"]["interval"][0] < 0.25 < found["shuffled"]["interval"][1]


def test_a_deaf_model_is_at_chance_and_a_poor_judge_is_taken_into_account() -> None:
    own, asked = survey(400, 0), votes(*[name for name in PATHS for _ in range(50)])
    deaf = agreement(described(torch.zeros_like(asked), seen(survey(200, 1)), asked), described(own, seen(own)), 0)
    assert deaf is not None
    assert deaf["generated"]["rate"] == pytest.approx(0.25, abs=0.1)
    half = own.clone()
    half[::2] = votes("edge-on")  # the judge takes every second galaxy for an edge-on one
    mine = asked.clone()
    mine[::2] = votes("edge-on")
    poor = agreement(described(torch.zeros_like(asked), seen(mine), asked), described(own, seen(half)), 0)
    assert poor is not None
    assert poor["classes"]["cigar"]["generated"]["rate"] == 0.5
    assert poor["classes"]["cigar"]["ratio"]["low"] < 1.0 < poor["classes"]["cigar"]["ratio"]["high"]


# Face-on discs: barred, spiral, both, and with a counted number of arms.
DISC = {"smooth-or-featured_featured": 40, "disk-edge-on_no": 40}
BARRED, UNBARRED, ARMS, NO_ARMS = ({name: 40} for name in ("bar_yes", "bar_no", "has-spiral-arms_yes", "has-spiral-arms_no"))
ARMED = {"spiral-arm-count_2": 40}
DISCS = {
    "barred spiral": DISC | BARRED | ARMS,
    "spiral": DISC | UNBARRED | ARMS,
    "plain": DISC | UNBARRED | NO_ARMS,
    "2 arms": DISC | UNBARRED | ARMS | ARMED,
    "ask: barred": DISC | BARRED,
    "ask: spiral": DISC | ARMS,
    "ask: 2 arms": DISC | ARMS | ARMED,
}


def discs(**times: int) -> Tensor:
    """Votes of discs by the keys of DISCS, dashes for spaces."""
    rows = []
    for name, n in times.items():
        row = torch.zeros(len(GZ2.answers))
        for answer, count in DISCS[name.replace("ask_", "ask: ").replace("_", " ")].items():
            row[GZ2.index(answer)] = count
        rows += [row] * n
    return torch.stack(rows)


def test_a_galaxy_counts_for_each_class_it_was_asked_to_be_and_a_request_for_all_of_them() -> None:
    asked = discs(barred_spiral=20, spiral=20)
    mine = asked.clone()
    mine[:10] = discs(spiral=10)  # half the barred spirals come without their bar
    own = discs(barred_spiral=30, spiral=50)
    found = agreement(described(torch.zeros_like(asked), seen(mine), asked), described(own, seen(own)), 0)
    assert found is not None
    assert set(found["classes"]) == {"face-on spiral", "barred"}
    hits = {name: (each["generated"]["hits"], each["generated"]["rows"]) for name, each in found["classes"].items()}
    assert hits == {"face-on spiral": (40, 40), "barred": (10, 20)}
    assert found["mean_ratio"] == pytest.approx(0.75)
    assert (found["generated"]["hits"], found["generated"]["rows"], found["rows"]) == (30, 40, 40)
    assert (found["judge_on_held_out"]["hits"], found["judge_on_held_out"]["rows"]) == (80, 80)
    # A request for a spiral is met by all 40 galaxies, one for a barred spiral by 10 of them.
    assert found["chance"] == pytest.approx(0.5 * 1.0 + 0.5 * 0.25)


def test_arms_and_dust_lanes_are_reported_and_in_no_mean() -> None:
    asked = discs(**{"2_arms": 20})
    own = discs(**{"2_arms": 30, "spiral": 30})
    found = agreement(described(torch.zeros_like(asked), seen(discs(spiral=20)), asked), described(own, seen(own)), 0)
    assert found is not None
    assert {name: each["counted"] for name, each in found["classes"].items()} == {"face-on spiral": True, "2 arms": False}
    assert found["classes"]["2 arms"]["generated"]["hits"] == 0
    assert found["mean_ratio"] == found["generated"]["rate"] == 1.0
    assert set(REPORTED.values()) <= set(GZ2.answers)
    assert len(set((CLASSES | REPORTED).values())) == 14


def test_the_mix_of_overlapping_classes_leaves_open_what_was_not_asked() -> None:
    """Barred galaxies that were asked for may have arms or not, as those of the sky; none is used twice, none is ruled out."""
    own = discs(barred_spiral=60, spiral=60, plain=60, **{"2_arms": 60})
    asked = discs(ask_barred=30, ask_spiral=30, **{"ask_2_arms": 30})
    rows = same_mix(described(asked, None, asked), described(own), 0)
    assert rows is not None
    assert len(set(rows.tolist())) == len(rows)
    picked = GZ2.winners(own[rows])
    assert not bool((picked[:, GZ2.index("bar_no")] & picked[:, GZ2.index("has-spiral-arms_no")]).any())  # nobody asked for a plain disc
    # 60 galaxies with two arms and 60 barred ones: as many of each, and of spirals.
    assert len(rows) == 180


def test_fractions_correlate_over_known_rows_only() -> None:
    n, column = 60, GZ2.index("how-rounded_round")
    counts = torch.zeros(n, len(GZ2.answers))
    share = torch.linspace(0, 40, n).round()
    counts[:, column], counts[:, GZ2.index("how-rounded_cigar")] = share, 40 - share
    judged = GZ2.fractions(counts)
    unknown = counts.clone()
    unknown[:30] = 0
    table = fractions(described(counts, judged, unknown), described(counts, judged.flip(0)))
    assert table is not None
    assert set(table) == set(GZ2.questions[6].canonical)
    mine, real = table["how-rounded_round"]["generated"], table["how-rounded_round"]["held_out"]
    assert mine["rows"] == 30
    assert mine["correlation"] == pytest.approx(1.0)
    assert mine["mean_absolute_error"] == pytest.approx(0.0, abs=1e-6)
    assert real["rows"] == 60
    assert real["correlation"] == pytest.approx(-1.0)
    assert table["how-rounded_in-between"]["generated"]["correlation"] is None  # constant: no correlation is claimed


def test_held_out_rows_are_chosen_for_the_requested_mix() -> None:
    asked = votes(*["cigar"] * 30, *["edge-on"] * 10)
    own = survey(400, 0)
    rows = same_mix(described(asked, None, asked), described(own), 0)
    assert rows is not None
    found = GZ2.winners(own[rows])
    cigars, edges = int(found[:, GZ2.index("how-rounded_cigar")].sum()), int(found[:, GZ2.index("disk-edge-on_yes")].sum())
    assert cigars + edges == len(rows)
    assert abs(cigars - 3 * edges) <= 3
    assert cigars == int(GZ2.winners(own)[:, GZ2.index("how-rounded_cigar")].sum())
    like = torch.zeros(40, 5)
    assert same_mix(described(asked, None, asked, asked_numeric=like), described(own), 0) is None


def test_flux_ratio_sees_one_bright_band_and_no_more() -> None:
    n = 400
    magnitude = 15 + 2 * seeds.uniform(0, "magnitude", range(2 * n))
    flux = 10 ** (0.4 * (22.5 - magnitude)) * (1 + 0.05 * seeds.normal(0, "scatter", range(2 * n)).double())
    numeric = torch.full((2 * n, 5), torch.nan)
    numeric[:, 1] = magnitude.float()
    none = torch.zeros(n, len(GZ2.answers))
    real = described(none, numeric=numeric[:n], properties={f"flux_{band}": flux[:n].float() for band in "gri"})
    new = described(
        none,
        asked_numeric=numeric[n:],
        properties={"flux_g": flux[n:].float(), "flux_r": 1.1 * flux[n:].float(), "flux_i": flux[n:].float()},
    )
    found = flux_ratio(new, real, 0)
    assert found is not None
    assert len(found["bins"]) == 4
    assert sum(row["held_out"] for row in found["bins"]) == n
    for row in found["bins"]:
        assert row["bands"]["r"]["ratio"] == pytest.approx(1.1, abs=0.02)
        assert row["bands"]["r"]["ratio"] > row["bands"]["r"]["floor_range"][1]
        assert row["bands"]["g"]["ratio"] == pytest.approx(1.0, abs=0.02)
        assert row["bands"]["g"]["floor_range"][0] < 1 < row["bands"]["g"]["floor_range"][1]
    assert sum(row["generated"] for row in found["bins"]) + found["outside_bins"] == n


def test_no_flux_figures_without_a_requested_magnitude_or_in_display_colour() -> None:
    none = torch.zeros(50, len(GZ2.answers))
    known = torch.full((50, 5), 16.0)
    assert flux_ratio(described(none), described(none, numeric=known), 0) is None
    rgb = Frame("rgb", 32)
    assert flux_ratio(described(none, asked_numeric=known, frame=rgb), described(none, numeric=known, frame=rgb), 0) is None
    assert conditional.agreement(described(none), described(none), 0) is None


def test_the_ceiling_of_votes_is_their_correlation_with_the_truth() -> None:
    """Volunteers drawn from known fractions: 10 votes allow less than 40, and none is needed to know how much."""
    n, yes = 4000, GZ2.index("bar_yes")
    truth = seeds.uniform(3, "ceiling-truth", range(n)).double()
    ceilings = []
    for voters in (10, 40):
        given = (seeds.uniform(3, f"ceiling-{voters}", range(n), (voters,)) < truth[:, None]).sum(1).float()
        counts = torch.zeros(n, len(GZ2.answers))
        counts[:, yes], counts[:, GZ2.index("bar_no")] = given, voters - given
        measured = float(torch.corrcoef(torch.stack((given.double() / voters, truth)))[0, 1])
        ceilings.append(conditional.vote_ceiling(counts, yes, GZ2))
        assert ceilings[-1] == pytest.approx(measured, abs=0.01)
    assert ceilings[0] < ceilings[1] - 0.02
    assert conditional.vote_ceiling(torch.zeros(n, len(GZ2.answers)), yes, GZ2) is None


def sized(larger: float, purpose: str, n: int = 200) -> Described:
    """Galaxies whose R50 is two fifths of the R90 they are given, a tenth of scatter, times `larger`."""
    r90 = 4 + 6 * seeds.uniform(0, purpose, range(n)).float()
    r50 = larger * 0.4 * r90 * (0.1 * seeds.normal(0, f"{purpose}-scatter", range(n))).exp()
    numeric = torch.full((n, 5), torch.nan)
    numeric[:, conditional.R90] = r90
    counts = torch.zeros(n, len(GZ2.answers))
    return described(counts, counts, counts, numeric, numeric, {"r50": r50})


def test_size_at_the_requested_size() -> None:
    real = sized(1.0, "real")
    for larger in (1.0, 1.15):
        found = conditional.size_ratio(sized(larger, "new"), real, 0)
        assert found is not None
        assert found["ratio"] == pytest.approx(larger, rel=0.03)
        low, high = found["floor_range"]
        assert low < 1 < high
        assert (found["ratio"] > high) == (larger > 1)
    without = sized(1.0, "new")
    without.cond_numeric = None
    assert conditional.size_ratio(without, real, 0) is None


def test_shares_are_the_judges_and_of_answers_that_held_out_rows_often_have() -> None:
    real = votes(*["smooth round"] * 50, *["edge-on"] * 48, *["irregular"] * 2)
    new = votes(*["smooth round"] * 100)
    unknown = torch.zeros_like(real)
    found = conditional.shares(described(unknown, seen(new), new), described(real, seen(real)))
    assert found is not None
    assert found["disk-edge-on_yes"]["generated"]["rate"] == 0
    assert found["disk-edge-on_yes"]["held_out"]["rate"] == 0.48
    assert found["how-rounded_round"]["generated"]["rate"] == 1.0
    assert "odd-feature_irregular" not in found
    assert conditional.shares(described(unknown), described(real, seen(real))) is None


def test_the_class_each_row_was_asked_for() -> None:
    asked = torch.cat((votes("cigar", "irregular"), torch.zeros(1, len(GZ2.answers))))
    assert conditional.requested(described(torch.zeros_like(asked), asked=asked)) == ["cigar", "irregular", None]
    assert conditional.requested(described(asked)) == []
