"""The suite's own machinery: sizes by tier, reported figures, proofs that wait to be asked for."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent

SUITE = """
import pytest

def test_plain(tier):
    assert tier("kills") == {plain}

@pytest.mark.proof_core
def test_proof(tier, report):
    n = tier("kills")
    report.rate("same digest", n, n)
    report("step ratio", 1.0675, n=9, bound=(1.02, 1.12))

@pytest.mark.gpu
def test_gpu():
    assert False, "there is no device here"

def test_no_row(tier):
    tier("absent")
"""


@pytest.fixture
def suite(tmp_path):
    """A project with our conftest and its own table; gives a function that runs its tests and returns what pytest printed."""
    tests = tmp_path / "tests"
    tests.mkdir()
    shutil.copy(HERE / "conftest.py", tests)
    (tests / "tiers.toml").write_text('[kills]\nwhat = "kills"\ntest = 2\nproof = 40\nlong = 200\n')
    (tmp_path / "pyproject.toml").write_text((HERE.parent / "pyproject.toml").read_text())

    def run(*words, plain=2):
        (tests / "test_it.py").write_text(SUITE.format(plain=plain))
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *words]
        environment = {"PYTHONPATH": str(HERE.parent), "PATH": "/usr/bin:/bin", "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100, env=environment)
        return done.stdout

    return run


def test_an_ordinary_run_leaves_the_proofs_out(suite):
    said = suite()
    assert "1 failed, 1 passed, 1 skipped, 1 deselected" in said
    assert "needs a CUDA device" in said
    assert "no row [absent]" in said
    assert "kills: N=2, 200 in make long" in said
    assert "same digest" not in said


def test_a_proof_prints_its_figures_and_the_long_tier_keeps_them(suite, tmp_path):
    subprocess.run("git init -q && git -c user.name=a -c user.email=a@b commit -q --allow-empty -m x", shell=True, cwd=tmp_path, check=True)
    said = suite("--tier", "long", "-m", "proof_core")
    assert "1 passed, 3 deselected" in said
    assert "kills: N=200\n" in said
    assert "same digest: 200 of 200 (N=200, 95 % bound 0.9812 to 1)" in said
    assert "step ratio: 1.067 (N=9, 95 % bound 1.02 to 1.12)" in said
    rows = [json.loads(line) for line in (tmp_path / "benchmarks" / "results" / "proof-core.jsonl").read_text().splitlines()]
    assert [(row["name"], row["n"]) for row in rows] == [("same digest", 200), ("step ratio", 9)]
    assert all(len(row["commit"]) == 40 and row["machine"]["cpu"] for row in rows)
