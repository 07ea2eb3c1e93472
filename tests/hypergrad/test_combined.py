"""Estimators combined by what they miss: closed forms."""

import math

import pytest
import torch

from raymeta.hypergrad import Combined, Reverse, ShortTerm, Truncated, hypergradient
from raymeta.hypergrad.base import with_steps
from raymeta.hypergrad.combined import weighted
from raymeta.problem import BilevelProblem, no_data

pytestmark = pytest.mark.usefixtures("float64")
T = 6
BOTH = Truncated(T, window=2), Reverse(T)


def of_loss(function):
    """A problem with E(λ) = function(x): what training does is to copy x."""
    return BilevelProblem(
        init=lambda h: torch.zeros_like(h["x"]),
        step=lambda s, h, batch: s + h["x"] / T,
        outer_loss=lambda s, h: function(s),
        batch=no_data,
    )


def test_on_a_quadratic_the_exact_one_counts_alone():
    """`Truncated` has no variance either, but a third of the slope."""
    problem = of_loss(lambda x: (x - 3).square().sum())
    x = torch.tensor([1.0, -0.5])
    found = hypergradient(problem, {"x": x}, Combined(BOTH, radius=0.1))
    torch.testing.assert_close(found.grads["x"], 2 * (x - 3))


def test_where_exact_derivatives_explode_strategies_remain():
    """E = x + ripples whose slopes are a thousand times steeper than E."""
    problem = of_loss(lambda x: (x + 1e-4 * (1e7 * x).sin()).sum())
    x = {"x": torch.tensor([1.0])}
    exact, both = (
        float(hypergradient(problem, x, one).grads["x"])
        for one in (Reverse(T), Combined((Reverse(T),), radius=0.1, pairs=200))
    )
    assert abs(exact - 1) > 100
    assert both == pytest.approx(1.0, abs=0.4)  # 4 standard errors


def test_weights_are_inverse_squared_errors():
    strategies, biased, exact = (
        torch.tensor(s)[:, None] for s in ([0.0, 4.0], [0.9, 1.1], [1.5, 2.5])
    )
    # Means 2, 1, 2; variances of the means 4, .01, .25; the bias beyond chance is .74.
    m = [4.0, 0.01 + (1.0 - 0.01 - 0.25), 0.25]
    mean = sum(g / e for g, e in zip((2, 1, 2), m, strict=True)) / sum(1 / e for e in m)
    found = weighted([strategies, biased, exact])
    assert float(found) == pytest.approx(mean)


def test_what_is_not_finite_counts_for_nothing():
    nan, some = torch.full((2, 1), math.nan), torch.tensor([[1.0], [3.0]])
    assert float(weighted([some, nan])) == 2.0
    assert weighted([nan, nan]).isnan().all()
    assert float(weighted([some[:1], nan])) == 1.0  # one pair, of unknown variance


def test_a_shorter_one_combines_shorter_runs():
    assert with_steps(Combined((Truncated(9, 4), Reverse(9))), 3) == Combined(
        (Truncated(3, 3), Reverse(3))
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Combined(()), "the same number of steps, but got"),
        (lambda: Combined((Reverse(2), Reverse(3))), "same number of steps"),
        (lambda: Combined((ShortTerm(2),)), "over whole runs"),
        (lambda: Combined(BOTH, pairs=1), "pairs >= 2, whose variance"),
    ],
)
def test_what_cannot_be_combined_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
