from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import wasserstein_distance

from galaxysd import seeds
from galaxysd.evaluate import distances
from galaxysd.evaluate.distances import beside, density_coverage, frechet, halves, wasserstein


def drawn(n: int, purpose: str, width: int = 1, seed: int = 0) -> torch.Tensor:
    return seeds.normal(seed, purpose, range(n), (width,))


@pytest.mark.parametrize(("n", "m"), [(50, 50), (37, 101), (1, 9)])
def test_wasserstein_is_scipys(n: int, m: int) -> None:
    a, b = drawn(n, "a")[:, 0], (1.3 * drawn(m, "b")[:, 0]).round(decimals=1) + 0.2
    assert float(wasserstein(a, b)) == pytest.approx(wasserstein_distance(a.double().numpy(), b.double().numpy()), rel=1e-9)


def test_wasserstein_of_a_shift_is_the_shift() -> None:
    a = drawn(200, "a")[:, 0].double()
    assert float(wasserstein(a, a + 0.75)) == pytest.approx(0.75)
    assert float(wasserstein(a, a.flip(0))) == 0.0


def exact(n: int, mean: torch.Tensor, root: torch.Tensor, purpose: str) -> torch.Tensor:
    """A sample whose mean and covariance are exactly `mean` and `root` root^T."""
    x = drawn(n, purpose, len(mean)).double()
    x = x - x.mean(0)
    return torch.linalg.solve_triangular(torch.linalg.cholesky(x.T.cov()), x.T, upper=False).T @ root.T + mean


def test_frechet_of_gaussians_is_the_formula() -> None:
    width, eye = 4, torch.eye(4, dtype=torch.float64)
    zero, shift = torch.zeros(width, dtype=torch.float64), torch.tensor([1.0, -2.0, 0.5, 0.0], dtype=torch.float64)
    assert float(frechet(exact(50, zero, eye, "a"), exact(70, shift, eye, "b"))) == pytest.approx(5.25, rel=1e-9)
    scales = torch.tensor([0.5, 1.0, 2.0, 3.0], dtype=torch.float64)
    expected = float(((1 - scales) ** 2).sum())  # commuting covariances: the sum of (s - t)^2
    assert float(frechet(exact(50, zero, eye, "a"), exact(70, zero, scales.diag(), "b"))) == pytest.approx(expected, rel=1e-9)
    turn = torch.linalg.qr(drawn(width, "turn", width).double()).Q
    one, other = exact(60, zero, turn @ scales.diag(), "a"), exact(60, zero, scales.diag(), "b")
    product = torch.linalg.eigvals(turn @ scales.square().diag() @ turn.T @ scales.square().diag()).real.sqrt().sum()
    assert float(frechet(one, other)) == pytest.approx(2 * float(scales.square().sum()) - 2 * float(product), rel=1e-8)


def test_density_and_coverage_by_hand() -> None:
    real = torch.tensor([[0.0], [1.0], [2.0], [10.0]])
    # Balls to the nearest other real row have radii 1, 1, 1, 8. The row 1.5 is in those of 1 and 2; the row 50 in none.
    density, coverage = density_coverage(real, torch.tensor([[1.5], [50.0]]), k=1).tolist()
    assert (density, coverage) == (1.0, 0.5)


def test_precision_and_recall_by_hand() -> None:
    real, generated = torch.tensor([[0.0], [1.0], [2.0], [10.0]]), torch.tensor([[1.5], [1.7], [50.0]])
    # Real balls reach 1, 1, 1, 8, so that of 10 down to 2; the generated ones 0.2, 0.2 and 48.3, which last holds 2 and 10.
    density, coverage, precision, recall = distances.neighbours(real, generated, k=1).tolist()
    assert (density, coverage) == (pytest.approx(4 / 3), 0.5)
    assert precision == pytest.approx(2 / 3)
    assert recall == 0.5


def test_kernel_distance_is_unbiased_and_sees_a_shift() -> None:
    zero = torch.stack([distances.kernel_distance(drawn(60, "a", 4, seed), drawn(60, "b", 4, seed)) for seed in range(40)])
    assert abs(float(zero.mean())) < 3 * float(zero.std()) / 40**0.5
    assert float(distances.kernel_distance(drawn(60, "a", 4), drawn(60, "b", 4) + 1)) > 10 * float(zero.std())
    by_hand = distances.kernel_distance(torch.tensor([[0.0], [1.0]]), torch.tensor([[2.0], [0.0]]))
    assert float(by_hand) == pytest.approx(1 + 1 - 2 * (1 + 1 + 27 + 1) / 4)


def test_a_collapsed_generator_stands_beside_the_floor() -> None:
    found = beside(distances.neighbours, drawn(200, "new", 4), drawn(400, "real", 4), worse=("low",) * 4, splits=4)
    assert found is not None
    density, coverage, _, recall = found
    assert coverage.collapsed < 0.2 < 0.8 < coverage.floor
    assert recall.collapsed < 0.2 < 0.8 < recall.floor
    assert density.to_json()["collapsed"] == density.collapsed


def test_coverage_of_itself_is_one_of_a_far_set_zero() -> None:
    real = drawn(100, "real", 8)
    assert float(density_coverage(real, real)[1]) == 1.0
    assert density_coverage(real, real + 100).tolist() == [0.0, 0.0]
    same = torch.ones(30, 4)
    assert float(density_coverage(same, same)[1]) == 1.0


def test_coverage_of_an_equal_sample_is_its_expectation() -> None:
    # A ball about a real row misses all of M rows with chance prod (N-1-i)/(N+M-1-i), i < k (Naeem et al. 2020, lemma 2).
    n, k, trials = 300, 5, 8
    expected = 1 - math.prod((n - 1 - i) / (2 * n - 1 - i) for i in range(k))
    found = [density_coverage(drawn(n, "a", 3, t), drawn(n, "b", 3, t), k) for t in range(trials)]
    assert float(torch.stack(found)[:, 1].mean()) == pytest.approx(expected, abs=0.01)
    assert float(torch.stack(found)[:, 0].mean()) == pytest.approx(1.0, abs=0.05)


def test_halves_are_disjoint_and_as_long_as_the_generated_rows() -> None:
    mine, one, other = halves(30, 101, 0, 3)
    assert len(mine) == len(one) == len(other) == 30
    assert not set(one.tolist()) & set(other.tolist())
    assert len(halves(90, 101, 0, 3)[0]) == 50
    assert halves(30, 101, 0, 3)[1].tolist() != halves(30, 101, 0, 4)[1].tolist()


def test_equal_samples_seldom_pass_the_floor_and_shifted_ones_do() -> None:
    alarms = caught = 0
    for seed in range(40):
        real, new = drawn(300, "real", seed=seed)[:, 0], drawn(150, "new", seed=seed)[:, 0]
        equal, shifted = beside(wasserstein, new, real), beside(wasserstein, new + 0.5, real)
        assert equal is not None
        assert shifted is not None
        alarms, caught = alarms + equal[0].beyond, caught + shifted[0].beyond
    assert alarms <= 4
    assert caught >= 38


def test_a_collapsed_generator_is_seen_by_coverage_and_not_by_density() -> None:
    real = drawn(400, "real", 4)
    one = real.mean(0) + 0.05 * drawn(200, "new", 4)
    found = beside(density_coverage, one, real, worse=("low", "low"), splits=5)
    assert found is not None
    density, coverage = found
    assert coverage.beyond
    assert coverage.value < 0.5 < 0.9 < coverage.floor
    assert not density.beyond
    assert density.rows == 200
    wide = beside(frechet, one, real, splits=5)
    assert wide is not None
    assert wide[0].beyond
    assert (wide[0].ratio or 0) > 10


def test_too_few_rows_say_nothing() -> None:
    assert beside(wasserstein, drawn(distances.LEAST - 1, "a")[:, 0], drawn(100, "b")[:, 0]) is None
    assert beside(wasserstein, drawn(100, "a")[:, 0], drawn(2 * distances.LEAST - 1, "b")[:, 0]) is None
