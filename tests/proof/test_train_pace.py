"""A train step and a sampled unit on a CPU beside diffusers' UNet2DModel of as many FLOPs and the network's convolutions alone."""

from __future__ import annotations

import importlib.util

import pytest

pytestmark = [
    pytest.mark.proof_train,
    pytest.mark.skipif(importlib.util.find_spec("diffusers") is None, reason="needs diffusers; `make proof-train` installs it"),
]


@pytest.mark.parametrize("verb", ["train", "sample"])
def test_ahead_of_diffusers(verb, tier, report):
    from benchmarks import pace, unets

    rounds = tier("pace-rounds")
    with pace.one_thread():
        row = pace.measure(verb, "smoke-32", "auto", rounds, "cpu")
    what = f"{verb}, smoke-32, {row['dtype']}, batch {row['batch']}, 1 thread"
    for name, found in row["ratios"].items():
        between = f"{found['p20']:.2f} to {found['p80']:.2f} between the fifths"
        report(f"{what}: time of {name} over ours, median of the rounds ({between})", found["median"], n=rounds)
    report(f"{what}: images a second", row["img_per_s"]["ours"], n=rounds)
    report(
        f"{what}: copies between layouts in a pass, ours and diffusers", f"{row['copies']['ours']} and {row['copies']['diffusers']}", n=1
    )
    assert row["gflop_forward"]["diffusers"] == pytest.approx(row["gflop_forward"]["ours"], rel=unets.WITHIN)
    assert row["ratios"][row["best"]["diffusers"]]["median"] > 1


def test_two_ranks_share_a_step(tier, report):
    from benchmarks import sweeps

    rounds = tier("pace-rounds")
    row = sweeps.of_ranks(2, "smoke-32", None, "auto", rounds, "cpu")
    for name, found in row["ratios"].items():
        report(f"train, smoke-32, {row['dtype']}, batch {row['batch']}: time of {name} over that of 2 ranks", found["median"], n=rounds)
    assert set(row["ratios"]) == {"one rank", "without exchange"}
    assert row["ratios"]["one rank"]["median"] > 1
