from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from galaxysd import seeds
from galaxysd.data.galaxies import Frame, Galaxies
from galaxysd.evaluate import detector, faults, features
from galaxysd.evaluate.features import InMemory

Draw = Callable[..., Galaxies]


def test_two_samples_of_one_law_are_told_by_chance_and_unlike_ones_always() -> None:
    one, other = (seeds.normal(0, name, range(200), (10,)).double() for name in ("one", "other"))
    found = detector.accuracy(one, other)
    assert found.interval[0] < 0.5 < found.interval[1]
    assert found.rows == 400
    assert detector.accuracy(one, other + 3).value == 1.0
    few = one[torch.arange(200) % 5] + 0.01 * other  # the same middle and spread: only their places betray them
    assert detector.accuracy(few, other).value >= 0.95


def test_what_could_not_be_measured_betrays_too() -> None:
    one, other = (seeds.normal(0, name, range(200), (4,)).double() for name in ("one", "other"))
    one[:, 2] = torch.nan
    assert detector.accuracy(one, other).value == 1.0


def test_the_planted_faults_are_told(survey: Draw, frame: Frame) -> None:
    source = InMemory(survey(300, 2), frame)
    for name, rate in detector.prove(source, features.softening(source)).items():
        assert rate.value >= detector.PROVEN, name
        assert rate.rows == 300


def test_a_fault_of_ours_is_told_and_few_rows_say_nothing(survey: Draw, frame: Frame) -> None:
    real, bad = survey(200, 2), faults.noisier(survey(100, 1, "new"), frame, 0)
    source = InMemory(real, frame)
    soft = features.softening(source)
    described = features.describe(source, soft)
    found = detector.detect(features.describe(InMemory(bad, frame), soft), described, source, soft)
    assert found is not None
    assert found["accuracy"]["interval"][0] > 0.9
    assert found["two_real_halves"]["rate"] == pytest.approx(0.5, abs=0.15)
    few = features.describe(InMemory(bad.rows(torch.arange(30)), frame), soft)
    assert detector.detect(few, described, source, soft) is None
