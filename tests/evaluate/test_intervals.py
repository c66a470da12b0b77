from __future__ import annotations

import pytest
from scipy.stats import binomtest

from galaxysd import seeds
from galaxysd.evaluate.intervals import Rate, ratio, wilson


@pytest.mark.parametrize(("hits", "rows"), [(0, 10), (10, 10), (3, 17), (180, 200)])
def test_wilson_is_scipys(hits: int, rows: int) -> None:
    expected = binomtest(hits, rows).proportion_ci(method="wilson")
    assert wilson(hits, rows) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_of_no_rows_nothing_is_known() -> None:
    assert Rate(0, 0).value is None
    assert wilson(0, 0) == (0.0, 1.0)
    assert ratio(Rate(3, 4), Rate(0, 5)) == {"ratio": None, "low": None, "high": None}


def test_the_interval_of_a_ratio_holds_the_truth_in_95_of_100() -> None:
    p, q, n, m, trials = 0.8, 0.9, 50, 200, 1000
    mine = (seeds.uniform(0, "over", range(trials), (n,)) < p).sum(1).tolist()
    theirs = (seeds.uniform(0, "under", range(trials), (m,)) < q).sum(1).tolist()
    held = 0
    for a, b in zip(mine, theirs, strict=True):
        found = ratio(Rate(a, n), Rate(b, m))
        assert found["low"] is not None
        assert found["high"] is not None
        held += found["low"] <= p / q <= found["high"]
    assert 0.93 < held / trials < 0.975
