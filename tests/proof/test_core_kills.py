"""Kill the trainer anywhere: the run ends in the bytes of one that nobody killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import killing, tiny

pytestmark = pytest.mark.proof_core

SETTINGS = ("train.steps=40", "train.save_steps=2")


def test_kills(tmp_path: Path, tier, report):
    tiny.run(tmp_path / "undisturbed", *SETTINGS)
    whole = killing.weights_digest(tmp_path / "undisturbed")
    n = tier("kills")
    kills = killing.kill_until(n, tmp_path / "killed", SETTINGS, seed=2, seconds=1.0)
    report.rate("trainer runs killed -9 that end in the undisturbed digest", sum(d == whole for d in kills.digests), kills.runs)
    report("kills, of them inside a save", f"{kills.total}, {kills.phases['save']}", n=kills.total)
    assert kills.total >= n
    assert kills.phases["save"] >= 0.2 * kills.total
    assert set(kills.digests) == {whole}


def test_killed_ten_times_in_forty_steps(tmp_path: Path, report):
    """One run, killed ten times on its way."""
    tiny.run(tmp_path / "undisturbed", *SETTINGS)
    died = killing.kill_one_run(tmp_path / "killed", SETTINGS, times=10, seed=3)
    same = killing.weights_digest(tmp_path / "killed") == killing.weights_digest(tmp_path / "undisturbed")
    report("40 steps killed ten times end in the digest of 40 steps straight", same, n=died)
    assert same
    assert died == 10
