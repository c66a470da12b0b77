"""The generator: Philox against its published vectors, and draws that depend on (seed, purpose, index, step) alone."""

from __future__ import annotations

import pytest
import torch

from galaxysd import seeds

# Random123 1.14, tests/kat_vectors, philox4x32 10 rounds: counter, key, result.
PUBLISHED = [
    ([0, 0, 0, 0], (0, 0), [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, (0xFFFFFFFF, 0xFFFFFFFF), [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        (0xA4093822, 0x299F31D0),
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), PUBLISHED)
def test_philox_gives_the_published_vectors(counter: list[int], key: tuple[int, int], expected: list[int]) -> None:
    assert seeds.philox(torch.tensor(counter), key).tolist() == expected


def test_philox_is_elementwise() -> None:
    counters = torch.tensor([vector[0] for vector in PUBLISHED])
    alone = torch.stack([seeds.philox(counter, (7, 9)) for counter in counters])
    assert torch.equal(seeds.philox(counters, (7, 9)), alone)


def test_a_draw_does_not_depend_on_its_companions() -> None:
    together = seeds.normal(3, "noise", range(40), (3, 5, 5), step=2)
    assert torch.equal(seeds.normal(3, "noise", [17, 4], (3, 5, 5), step=2), together[[17, 4]])
    assert torch.equal(seeds.normal(3, "noise", 17, (3, 5, 5), step=2)[0], together[17])
    assert torch.equal(seeds.uniform(3, "x", torch.tensor([5])), seeds.uniform(3, "x", range(9))[5:6])


def test_longer_draws_begin_with_shorter_ones() -> None:
    assert torch.equal(seeds.bits(1, "x", range(3), 7), seeds.bits(1, "x", range(3), 20)[:, :7])


def test_seed_purpose_index_and_step_all_matter() -> None:
    draws = [
        seeds.bits(0, "a", 0, 8),
        seeds.bits(1, "a", 0, 8),
        seeds.bits(0, "b", 0, 8),
        seeds.bits(0, "a", 1, 8),
        seeds.bits(0, "a", 1 << 32, 8),
        seeds.bits(0, "a", 0, 8, step=1),
    ]
    assert len({tuple(draw[0].tolist()) for draw in draws}) == len(draws)


def test_uniform_is_open_and_flat() -> None:
    draw = seeds.uniform(0, "flat", range(1000), (100,))
    assert 0 < float(draw.min()) < 1e-3
    assert 1 - 1e-3 < float(draw.max()) < 1
    # 1e5 draws: the mean is within 5 of its standard errors.
    assert abs(float(draw.mean()) - 0.5) < 5 * (1 / 12 / draw.numel()) ** 0.5
    # Chi-square of 100 equal bins has mean 99 and standard deviation 14.
    counts = torch.histc(draw, 100, 0, 1)
    assert 40 < float(((counts - 1000) ** 2 / 1000).sum()) < 170


def test_normal_has_the_moments_of_a_normal() -> None:
    draw = seeds.normal(0, "noise", range(2000), (3, 11)).double()
    n = draw.numel()
    assert abs(float(draw.mean())) < 5 / n**0.5
    assert abs(float(draw.square().mean()) - 1) < 5 * (2 / n) ** 0.5
    assert abs(float(draw.pow(4).mean()) - 3) < 5 * (96 / n) ** 0.5
    correlation = float((draw[:, 0, 0] * draw[:, 0, 1]).mean())  # the two of one Box-Muller pair
    assert abs(correlation) < 5 / len(draw) ** 0.5


@pytest.mark.parametrize("n", [1, 2, 97, 4096])
def test_permutation_is_one_and_changes_with_the_step(n: int) -> None:
    order = seeds.permutation(0, "order", n)
    assert torch.equal(order.sort().values, torch.arange(n))
    assert torch.equal(order, seeds.permutation(0, "order", n))
    if n > 10:
        assert not torch.equal(order, seeds.permutation(0, "order", n, step=1))
