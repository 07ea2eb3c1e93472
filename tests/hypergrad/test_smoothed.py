"""Smoothed hypergradients: closed forms, and differences of the smoothed loss."""

import math
from dataclasses import replace

import pytest
import torch

from raymeta.hypergrad import Checkpointed, Reverse, ShortTerm, Smoothed, hypergradient
from raymeta.hypergrad.base import with_steps
from raymeta.hypergrad.smoothed import Beside, relative_noise
from raymeta.outer.report import plain_run
from raymeta.problem import BilevelProblem, no_data
from raymeta.testing.problems import sgd_everything
from raymeta.testing.truth import central_differences, largest_relative_error

pytestmark = pytest.mark.usefixtures("float64")
T = 5


def of_loss(function):
    """A problem with E(λ) = function(x): what training does is to copy x."""
    return BilevelProblem(
        init=lambda h: torch.zeros_like(h["x"]),
        step=lambda s, h, batch: s + h["x"] / T,
        outer_loss=lambda s, h: function(s),
        batch=no_data,
    )


def test_on_a_quadratic_it_is_exact_for_any_draw():
    a = torch.tensor([[2.0, 0.5], [0.5, 1.0]])
    problem = of_loss(lambda x: x @ a @ x / 2 + x.sum())
    x = torch.tensor([0.7, -1.3])
    found = hypergradient(problem, {"x": x}, Smoothed(Reverse(T), radius=0.5, seed=3))
    torch.testing.assert_close(found.grads["x"], a @ x + 1)
    assert float(found.outer_loss) == pytest.approx(float(x @ a @ x / 2 + x.sum()))


def test_it_is_the_slope_of_the_mean_loss_with_the_same_draws():
    problem, hparams = sgd_everything()
    estimator = Smoothed(Reverse(8), radius=0.1, pairs=2)
    epsilon = relative_noise(hparams, 0.1, 2, 0)

    def mean_loss(moved):
        runs = [
            moved | {k: moved[k] + sign * e[i] for k, e in epsilon.items()}
            for sign in (1, -1)
            for i in range(2)
        ]
        return math.fsum(plain_run(problem, run, 8)[1] for run in runs) / 4

    grads = hypergradient(problem, hparams, estimator).grads
    truth = central_differences(mean_loss, hparams, 1e-5)
    assert largest_relative_error(grads, truth) < 1e-7
    plain = hypergradient(problem, hparams, Reverse(8)).grads
    assert largest_relative_error(plain, truth) > 1e-3


def test_ripples_within_the_radius_are_smoothed_away():
    """E_ε of x²/2 + sin(k x)/10: slope x + k cos(k x) exp(-k² σ²/2)/10."""
    k, x = 60.0, torch.tensor([1.0])
    problem = of_loss(lambda x: (x.square() / 2 + (k * x).sin() / 10).sum())
    at = Smoothed(Reverse(T), radius=0.03, pairs=2_000)
    truth = 1 + k * math.cos(k) * math.exp(-((k * 0.03) ** 2) / 2) / 10
    found = hypergradient(problem, {"x": x}, at).grads["x"]
    assert float(found) == pytest.approx(truth, abs=0.4)  # 5 standard errors
    assert abs(1 + k * math.cos(k) / 10 - truth) > 4


def test_runs_of_one_program_are_those_one_by_one(caplog):
    problem, hparams = sgd_everything()

    def step(state, hparams, batch):
        hparams["lr"].detach().item()  # which vmap refuses
        return problem.step(state, hparams, batch)

    one_by_one = replace(problem, step=step)
    for estimator in (Reverse(6), Checkpointed(6)):
        epsilon = relative_noise(hparams, 0.05, 2, 0)
        together = Beside.of(estimator, problem, hparams, epsilon)
        apart = Beside.of(estimator, one_by_one, hparams, epsilon)
        torch.testing.assert_close(together.losses, apart.losses)
        assert largest_relative_error(together.grads, apart.grads) < 1e-9
    assert caplog.text.count("runs go one by one") == 1


def test_pairs_that_diverge_are_left_out():
    problem = of_loss(lambda x: torch.where(x > 1.05, torch.inf, x.square()).sum())
    some = Smoothed(Reverse(T), radius=0.05, pairs=40)
    grad = hypergradient(problem, {"x": torch.tensor([1.0])}, some).grads["x"]
    assert float(grad) == pytest.approx(2.0)
    all_of_them = hypergradient(problem, {"x": torch.tensor([2.0])}, some)
    assert all_of_them.grads["x"].isnan().all()
    assert math.isinf(float(all_of_them.outer_loss))


def test_the_draws_are_a_function_of_the_seed_and_of_the_point():
    h = {"x": torch.tensor([1.0, 0.0])}
    first, again = (relative_noise(h, 0.1, 3, 0)["x"] for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, relative_noise(h, 0.1, 3, 1)["x"])
    assert first[:, 1].tolist() == [0, 0, 0]
    narrow = relative_noise(h, {"x": 0.01}, 3, 0)["x"]
    torch.testing.assert_close(narrow, 0.1 * first)


def test_a_shorter_one_averages_shorter_runs():
    assert with_steps(Smoothed(Reverse(20), pairs=3), 5) == Smoothed(
        Reverse(5), pairs=3
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Smoothed(ShortTerm(2)), "over whole runs, but got ShortTerm"),
        (lambda: Smoothed(Reverse), "but got the class Reverse"),
        (lambda: Smoothed(Reverse(2), radius=0.0), "radius > 0, but got radius=0.0"),
        (lambda: Smoothed(Reverse(2), pairs=0), "pairs >= 1, but got pairs=0"),
    ],
)
def test_what_cannot_be_smoothed_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_radius_by_name_needs_every_name():
    problem, hparams = sgd_everything()
    with pytest.raises(ValueError, match="has none for"):
        hypergradient(problem, hparams, Smoothed(Reverse(2), radius={"lr": 0.1}))
