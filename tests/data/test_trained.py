from __future__ import annotations

import hashlib
from pathlib import Path

from galaxysd.data.trained import IDS, seen

SURVEY = {"simulated": "survey", "seed": 7, "first": 10, "n": 5, "size": 32}


def test_simulated_galaxies_are_known_by_population_seed_and_number() -> None:
    ids = ["sim-survey-7-10", "sim-survey-7-14", "sim-survey-7-15", "sim-survey-8-10", "sim-atlas-7-10", "real-1"]
    assert seen(SURVEY, ids, None) == (ids[:2], None)


def test_of_a_mixture_every_part_counts() -> None:
    mixed = {"mixed": [SURVEY, {**SURVEY, "simulated": "atlas", "first": 0}]}
    assert seen(mixed, ["sim-survey-7-10", "sim-atlas-7-4", "sim-atlas-7-5"], None) == (["sim-atlas-7-4", "sim-survey-7-10"], None)


def test_a_sets_galaxies_are_known_by_the_hashes_the_run_keeps(tmp_path: Path) -> None:
    hashes = sorted(hashlib.sha256(name.encode()).hexdigest()[:16] for name in ("a", "b"))
    text = "\n".join(hashes)
    about = {"set": "0" * 64, "ids": hashlib.sha256(text.encode()).hexdigest(), "n": 2}
    found, reason = seen(about, ["a", "c"], tmp_path)
    assert found == []
    assert reason is not None
    assert "not beside it" in reason
    (tmp_path / IDS).write_text(text)
    assert seen(about, ["a", "c"], tmp_path) == (["a"], None)
    (tmp_path / IDS).write_text(text + "\nffff")
    found, reason = seen(about, ["a", "c"], tmp_path)
    assert found == []
    assert reason is not None
    assert "digests differ" in reason


def test_a_model_that_does_not_say_is_said_not_to() -> None:
    assert seen({"set": "x"}, ["a"], None)[1] == "the model says of its training data only {'set': 'x'}"
