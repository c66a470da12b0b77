from __future__ import annotations

from typing import Any

import pytest

from galaxysd.evaluate import faults
from galaxysd.evaluate.alarms import FINEST, alarms


def quiet() -> dict[str, Any]:
    """Findings of a good set."""

    def beside(value: float, floor: float) -> dict[str, Any]:
        return {"value": value, "floor": floor, "ratio": value / floor}

    def rate(value: float) -> dict[str, Any]:
        return {"rate": value, "rows": 400, "interval": [value - 0.03, value + 0.03]}

    space = {name: beside(0.9, 0.92) for name in ("density", "coverage", "precision", "recall")}
    return {
        "spaces": {"scattering coefficients": space},
        "memorisation": {
            "exceeds_holdout": False,
            "suspected_copies": 0,
            "closer_than_holdout_1st_percentile": rate(0.01),
            "holdout_closer_than_its_1st_percentile": rate(0.01),
        },
        "flux_ratio": {"all": {"bands": {band: {"ratio": 1.005, "floor_range": [0.99, 1.01]} for band in "gri"}}},
        "size_ratio": {"ratio": 1.01, "floor_range": [0.98, 1.02]},
        "distributions": {
            name: {"wasserstein": beside(0.011, 0.01), "median": {"generated": 1.0, "held_out": 1.01}}
            for name in ("colour_g-r", "colour_r-i", "r50", "noise_r", FINEST)
        },
        "shares": {"has-spiral-arms_yes": {"generated": rate(0.3), "held_out": rate(0.31)}},
        "classes": {"generated": rate(0.8), "judge_on_held_out": rate(0.82)},
    }


def test_a_good_set_raises_none() -> None:
    assert alarms(quiet()) == []


def spoilt(fault: str, found: dict[str, Any]) -> None:
    space = found["spaces"]["scattering coefficients"]
    if fault == "not galaxies":
        space["precision"]["value"] = 0.2
    elif fault == "collapsed":
        space["recall"]["value"] = space["coverage"]["value"] = 0.1
    elif fault == "copies":
        found["memorisation"]["exceeds_holdout"] = True
    elif fault == "brightness":
        for band in found["flux_ratio"]["all"]["bands"].values():
            band["ratio"] = 1.05
    elif fault == "colour":
        found["distributions"]["colour_g-r"]["wasserstein"]["ratio"] = 6.0
    elif fault == "size":
        found["size_ratio"]["ratio"] = 0.85
    elif fault == "classes missing":
        found["shares"]["has-spiral-arms_yes"]["generated"] = {"rate": 0.02, "interval": [0.01, 0.04]}
    elif fault in ("blurred", "noisy"):
        name, median = (FINEST, 0.5) if fault == "blurred" else ("noise_r", 1.4)
        found["distributions"][name] = {"wasserstein": {"ratio": 9.0}, "median": {"generated": median, "held_out": 1.0}}
    else:
        found["classes"]["generated"] |= {"rate": 0.2, "interval": [0.17, 0.23]}


@pytest.mark.parametrize("fault", [*faults.FAULTS, "copies"])
def test_each_fault_raises_its_own_alarm_alone_and_says_both_numbers(fault: str) -> None:
    found = quiet()
    spoilt(fault, found)
    (alarm,) = alarms(found)
    assert alarm.fault == fault
    assert alarm.says
    assert alarm.metric
    assert alarm.to_json().keys() == {"fault", "metric", "value", "limit", "says"}


def test_what_was_not_measured_raises_none() -> None:
    found = quiet() | {"spaces": {}, "memorisation": None, "flux_ratio": None, "size_ratio": None, "shares": None, "classes": None}
    found["distributions"] = {name: {"wasserstein": None, "median": {}} for name in found["distributions"]}
    assert alarms(found) == []


def test_without_a_requested_size_the_distribution_speaks() -> None:
    found = quiet() | {"size_ratio": None}
    found["distributions"]["r50"]["wasserstein"]["ratio"] = 5.0
    assert [alarm.fault for alarm in alarms(found)] == ["size"]
