"""Every launch row compiled for its own card: no spills, wide loads, matrix units where they must be, shared memory within the limit."""

from __future__ import annotations

import json

import pytest

from galaxysd.kernels import launching
from tests.test_benchmarks_gate import compiles

pytestmark = [pytest.mark.proof_kernels, pytest.mark.timeout(840)]

ORDER = (90, 89, 120, 100, 80)  # of the cards that are compiled in all forms first


def compiled(forms: str, capabilities: tuple[int, ...]) -> dict:
    words = [word for each in capabilities for word in ("--capability", str(each))]
    done = compiles(*words, "--forms", forms, "--json", timeout=800)
    assert done.returncode in (0, 1), done.stderr[-3000:]
    return json.loads(done.stdout)


def test_every_row_compiles_for_its_card(tier, report):
    """All cards in the heaviest form of each row, and so many of them in every form."""
    n = tier("cards-in-every-form")
    assert set(ORDER) == set(launching.capabilities())
    every, heaviest = compiled("all", ORDER[:n]), {"results": [], "faults": []}
    if ORDER[n:]:
        heaviest = compiled("few", ORDER[n:])
    results, faults = every["results"] + heaviest["results"], every["faults"] + heaviest["faults"]
    shown = ", ".join(f"sm_{each}" for each in ORDER[:n])
    report(f"launches compiled for five cards ({shown} in every form), faults", len(faults), n=len(results))
    report("most registers of a thread", max(each["compiled"]["registers"] for each in results), n=len(results))
    rows = {tuple(each["compiled"]["row"][key] for key in ("op", "shape", "dtype", "capability")) for each in results}
    report("rows of the launch tables compiled", f"{len(rows)} of {len(launching.rows())}", n=len(launching.rows()))
    assert not faults, "\n".join(faults)
    assert rows == set(launching.rows())
