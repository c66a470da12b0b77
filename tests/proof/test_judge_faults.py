"""Every planted fault is named, good sets raise no alarm, copies are found in disguise, and the detector proves itself."""

from __future__ import annotations

import pytest
import torch

from benchmarks import judge
from galaxysd.evaluate import detector, faults, memorisation
from galaxysd.evaluate.features import InMemory
from galaxysd.evaluate.report import verdict_lines

pytestmark = pytest.mark.proof_judge


@pytest.fixture(scope="module")
def pool():
    return judge.Pool.drawn()


def test_a_good_set_raises_no_alarm(pool, tier, report):
    n = tier("silent-seeds")
    found = judge.noticed(pool, [judge.NONE], range(n))[judge.NONE]
    report.rate("two halves of one population raise no alarm", found["hits"], n)
    assert found["hits"] == n, found


def test_every_planted_fault_is_named(pool, tier, report):
    n = tier("fault-seeds")
    found = judge.noticed(pool, judge.FAULTS, range(n))
    for fault, row in found.items():
        report.rate(f"{fault}: its alarm is raised", row["hits"], n)
    missed = {fault: row for fault, row in found.items() if row["hits"] < n}
    assert not missed, missed


def test_the_verdict_names_the_fault(pool):
    found = judge.Deal(pool, 0).planted("brightness")
    assert "FAILS" in verdict_lines(found["alarms"], {})[0]
    assert "brightness" in verdict_lines(found["alarms"], {})[0]


@pytest.mark.parametrize("kind", faults.COPIES)
def test_copies_are_found_in_disguise(kind, pool, tier, report):
    n = tier("copies-planted")
    deal = judge.Deal(pool, 0)
    training = pool.galaxies.rows(deal.training)
    bad = faults.copies(pool.galaxies.rows(deal.generated[:n]), training, kind, 0)
    mine, real = deal.nearest(pool.seen(bad))
    right = sum(one == other for one, other in zip(mine.ids, faults.copied_from(n, training, 0), strict=True))
    report.rate(f"{kind}: a copy's nearest training id is the one it was made of", right, n)
    assert memorisation.compare(mine, real, bad.ids)["exceeds_holdout"]
    assert right >= 0.8 * n


def test_the_detector_tells_planted_faults_and_no_others(pool, tier, report):
    n = tier("detector-seeds")
    for seed in range(n):
        for name, rate in detector.prove(InMemory(pool.galaxies, pool.frame), pool.softening, seed).items():
            report(f"seed {seed}: the detector's accuracy on {name}", rate.value, n=rate.rows, bound=rate.interval)
            assert rate.value >= detector.PROVEN
    rows = detector.space(pool.described)
    half = torch.arange(0, len(rows), 2)
    found = detector.accuracy(rows[half][: detector.ROWS], rows[half + 1][: detector.ROWS])
    report("the detector's accuracy on two halves of one population", found.value, n=found.rows, bound=found.interval)
    assert found.interval[0] < 0.55
