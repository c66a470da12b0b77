"""The figures that need no training: samplers, generator bits, vote trees, total flux, and the cost beside plain modules."""

from __future__ import annotations

import math

import pytest
import torch

from galaxysd import seeds
from galaxysd.config import DiffusionConfig
from galaxysd.data.schema import GZ2
from galaxysd.diffusion.samplers import SAMPLERS, levels

pytestmark = pytest.mark.proof_core

SPREAD = 0.5


def end_error(name: str, steps: int) -> float:
    """Relative error at sigma_min of the ideal denoiser's ODE for N(0, SPREAD^2) data."""
    sigmas = levels(DiffusionConfig(), steps)[:-1]
    x = SAMPLERS[name](
        lambda x, sigma: x * SPREAD**2 / (SPREAD**2 + sigma**2), torch.full((1, 1, 1, 1), sigmas[0], dtype=torch.float64), sigmas
    )
    exact = sigmas[0] * math.sqrt((SPREAD**2 + sigmas[-1] ** 2) / (SPREAD**2 + sigmas[0] ** 2))
    return abs(float(x) / exact - 1)


@pytest.mark.parametrize("name", ["heun", "dpmpp_2m"])
def test_error_falls_fourfold(name, report):
    errors = {steps: end_error(name, steps) for steps in (32, 64, 128, 256)}
    ratios = [errors[steps] / errors[2 * steps] for steps in (32, 64, 128)]
    report(f"{name}: error per doubling of steps falls by", ", ".join(f"{ratio:.2f}" for ratio in ratios), n=len(ratios))
    assert all(3.0 < ratio < 5.5 for ratio in ratios)


def test_philox_vectors(report):
    """Known answers of Random123 for philox4x32-10."""
    known = [
        ([0] * 4, (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ([0xFFFFFFFF] * 4, (0xFFFFFFFF, 0xFFFFFFFF), "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ([0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344], (0xA4093822, 0x299F31D0), "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ]
    right = sum(" ".join(f"{word:08x}" for word in seeds.philox(torch.tensor(c), k).tolist()) == want for c, k, want in known)
    report("Philox4x32-10 known answers", f"{right} of {len(known)}", n=len(known))
    assert right == len(known)


def test_votes_of_a_tree(tier, report):
    """Conditional fractions sum to 1, and a child's voters are its parents' votes."""
    from galaxysd.simulate.survey import simulate

    n = tier("vote-trees")
    counts = simulate("survey", 5, range(n), 16).counts.double()
    fractions, voters = GZ2.fractions(counts), GZ2.voters(counts)
    worst = max(
        float((fractions[voters[:, q] > 0][:, part].sum(1) - 1).abs().max())
        for q, part in enumerate(GZ2.slices)
        if (voters[:, q] > 0).any()
    )
    parents = [(q, [GZ2.index(parent) for parent in question.parents]) for q, question in enumerate(GZ2.questions) if question.parents]
    lost = max(float((counts[:, columns].sum(1) - voters[:, q]).abs().max()) for q, columns in parents)
    report("largest departure of conditional fractions from 1", worst, n=n)
    report("largest difference between a question's voters and its parents' votes", lost, n=n)
    assert worst < 1e-9
    assert lost == 0


def test_total_sersic_flux(report):
    """A galaxy of magnitude 15 on a stamp, against its closed form within the stamp."""
    from galaxysd.simulate import render
    from tests.simulate.test_render import enclosed, spheroid

    errors = []
    for index in (1.0, 2.0, 3.0, 4.0):
        for ratio in (0.4, 0.8):
            galaxy = spheroid(index, ratio)
            flux = render.clean(galaxy, 128, 0.8, 0)[0].double().sum((1, 2))
            errors.append(float((flux / (1000.0 * enclosed(galaxy, 51.2)) - 1).abs().max()))
    report("total Sersic flux, largest relative error, n 1 to 4", max(errors), n=len(errors))
    assert max(errors) < 0.01


@pytest.mark.parametrize("what", ["train step", "sampled unit"])
def test_within_15_percent_of_plain_modules(what, tier, report):
    """One thread, interleaved in one run."""
    from benchmarks import contest
    from benchmarks.interleave import interleaved, ratio

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        contestants = {"train step": contest.train_step, "sampled unit": contest.sampled_unit}[what]()
        seconds = interleaved(contestants, rounds=tier("interleaved-rounds"))
    finally:
        torch.set_num_threads(before)
    found = ratio(seconds["ours"], seconds["plain"])
    report(f"smoke-32 {what}, ours over plain torch modules", found.median, n=found.rounds, bound=(found.low, found.high))
    assert found.median <= 1.15
