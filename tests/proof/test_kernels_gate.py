"""Every launch row compiled for its own card: no spills, wide loads, matrix units where they must be, shared memory within the limit."""

from __future__ import annotations

import json

import pytest

from galaxysd.kernels import launching
from tests.test_benchmarks_gate import compiles

pytestmark = [pytest.mark.proof_kernels, pytest.mark.timeout(840)]


def compiled(forms: str, capabilities: tuple[int, ...]) -> dict:
    words = [word for each in capabilities for word in ("--capability", str(each))]
    done = compiles(*words, "--forms", forms, "--json", timeout=800 if forms == "few" else 7200)
    assert done.returncode in (0, 1), done.stderr[-3000:]
    return json.loads(done.stdout)


def test_every_row_compiles_for_its_card(tier, report):
    """All five cards, each row in the heaviest form of its operation or in every form."""
    forms = "few" if tier("forms-of-a-row") == 1 else "all"
    found = compiled(forms, tuple(launching.capabilities()))
    results, faults = found["results"], found["faults"]
    report(f"launches compiled for five cards, {'heaviest' if forms == 'few' else 'every'} form; faults", len(faults), n=len(results))
    report("most registers of a thread", max(each["compiled"]["registers"] for each in results), n=len(results))
    rows = {tuple(each["compiled"]["row"][key] for key in ("op", "shape", "dtype", "capability")) for each in results}
    report("rows of the launch tables compiled", f"{len(rows)} of {len(launching.rows())}", n=len(launching.rows()))
    assert not faults, "\n".join(faults)
    assert rows == set(launching.rows())
