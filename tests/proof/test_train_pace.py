"""A train step and a sampled unit on a CPU beside diffusers' UNet2DModel of as many FLOPs and the network's convolutions alone."""

from __future__ import annotations

import importlib.util

import pytest
import torch

pytestmark = [
    pytest.mark.proof_train,
    pytest.mark.skipif(importlib.util.find_spec("diffusers") is None, reason="needs diffusers; `make proof-train` installs it"),
]


@pytest.mark.parametrize("verb", ["train", "sample"])
def test_ahead_of_diffusers(verb, tier, report):
    from benchmarks import pace

    rounds = tier("pace-rounds")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        row = pace.measure(verb, "smoke-32", None, "auto", rounds, False, "cpu")
    finally:
        torch.set_num_threads(before)
    what = f"{verb}, smoke-32, {row['dtype']}, batch {row['batch']}, 1 thread"
    for name, found in row["ratios"].items():
        between = f"{found['p20']:.2f} to {found['p80']:.2f} between the fifths"
        report(f"{what}: time of {name} over ours, median of the rounds ({between})", found["median"], n=rounds)
    report(f"{what}: images a second", row["img_per_s"]["ours"], n=rounds)
    report(
        f"{what}: copies between layouts in a pass, ours and diffusers", f"{row['copies']['ours']} and {row['copies']['diffusers']}", n=1
    )
    assert row["gflop_forward"]["diffusers"] == pytest.approx(row["gflop_forward"]["ours"], rel=pace.WITHIN)
    assert row["ratios"]["diffusers"]["median"] > 1
