from __future__ import annotations

import pytest
import torch

from galaxysd import seeds
from galaxysd.data.schema import GZ2
from galaxysd.model.calibration import BINS, calibration, expected_error, reliability


def cast(fractions: torch.Tensor, voters: int) -> torch.Tensor:
    """Votes of each question, drawn from its fractions."""
    counts = torch.zeros_like(fractions)
    draws = seeds.uniform(0, "calibration", range(len(fractions)), (len(GZ2.questions), voters))
    for number, part in enumerate(GZ2.slices):
        chosen = torch.searchsorted(fractions[:, part].double().cumsum(1), draws[:, number].contiguous()).clamp_max(
            part.stop - part.start - 1
        )
        counts[:, part] = torch.nn.functional.one_hot(chosen, part.stop - part.start).sum(1).float()
    return counts


@pytest.fixture(scope="module")
def fractions() -> torch.Tensor:
    return GZ2.fractions(seeds.uniform(1, "calibration", range(3000), (len(GZ2.answers),)).float() ** 2)


def test_votes_drawn_from_the_fractions_are_calibrated(fractions: torch.Tensor) -> None:
    found = calibration(fractions, cast(fractions, 40), GZ2)
    assert found["expected_calibration_error"] < 0.005
    assert all(error < 0.01 for error in found["by_question"].values())


def test_too_sure_a_judge_is_found_out(fractions: torch.Tensor) -> None:
    sure = GZ2.fractions(fractions**3)
    found = calibration(sure, cast(fractions, 40), GZ2)
    assert found["expected_calibration_error"] > 0.1


def test_by_hand() -> None:
    """Forty volunteers of one galaxy: 0.75 promised and 0.5 given, 0.25 promised and 0.5 given."""
    counts, said = torch.zeros(1, len(GZ2.answers)), torch.zeros(1, len(GZ2.answers))
    yes, no = GZ2.index("bar_yes"), GZ2.index("bar_no")
    counts[0, [yes, no]], said[0, yes], said[0, no] = 20.0, 0.75, 0.25
    bins = reliability(said, counts, GZ2, GZ2.number("bar"))
    assert bins == [{"predicted": 0.25, "given": 0.5, "votes": 40.0}, {"predicted": 0.75, "given": 0.5, "votes": 40.0}]
    assert expected_error(bins) == 0.25
    assert calibration(said, counts, GZ2)["by_question"]["something-odd"] is None  # nobody was asked
    assert len(bins) < BINS
