"""The single-loop implicit hypergradient: its steps, and where they come to rest."""

import pytest
import torch

from raymeta.hypergrad import SOBA, Implicit, hypergradient
from raymeta.outer.optimize import optimize
from raymeta.testing.truth import largest_relative_error
from tests.support.heavy import charged_and_counted, layers
from tests.support.ridge import D, Ridge

pytestmark = pytest.mark.usefixtures("float64")
each_rate = pytest.mark.parametrize("lr", [None, 0.4])


def continued(estimator, problem, hparams, count):
    """The last of so many estimates, each going on from the one before."""
    rollout = estimator.init(problem, hparams)
    for _ in range(count):
        result, rollout = estimator.estimate(problem, hparams, rollout)
    return result, rollout


@each_rate
@pytest.mark.parametrize("steps", [1, 4])
def test_comes_to_rest_at_the_closed_form(lr, steps):
    task, l2 = Ridge(), torch.linspace(0.05, 0.8, D)
    estimator = SOBA(steps, lr=lr)
    result, rollout = continued(estimator, task.sample(1), {"l2": l2}, 400 // steps)
    truth = task.closed_form(1, l2)
    assert float((result.grads["l2"] - truth).norm() / truth.norm()) < 1e-9
    assert result.residual < 1e-9
    assert rollout.step == 400
    exact = hypergradient(task.sample(1), {"l2": l2}, Implicit(400))
    assert largest_relative_error(result.grads, exact.grads) < 1e-9


@each_rate
def test_its_steps_are_those_of_the_equations(lr):
    task, l2 = Ridge(), torch.linspace(0.05, 0.8, D)
    x, y, x_val, y_val = task.data(2)
    hessian = x.T @ x / len(x) + torch.diag(l2)
    w, v = torch.zeros(D), torch.zeros(D)
    estimator, problem = SOBA(lr=lr), task.sample(2)
    rollout = estimator.init(problem, {"l2": l2})
    for _ in range(3):
        result, rollout = estimator.estimate(problem, {"l2": l2}, rollout)
        w = w - 0.4 * (hessian @ w - x.T @ y / len(x))
        b = x_val.T @ (x_val @ w - y_val) / len(x_val)
        r = b - hessian @ v
        assert result.residual == pytest.approx(float(r.norm() / b.norm()), rel=1e-12)
        v = v + (r @ r / (r @ hessian @ r) if lr is None else lr) * r
        truth = {"l2": 0.01 - v * w}
        assert largest_relative_error(result.grads, truth) < 1e-12
        torch.testing.assert_close(rollout.carry.v, v)
        loss = 0.5 * (x_val @ w - y_val).square().mean() + 0.01 * l2.sum()
        torch.testing.assert_close(result.outer_loss, loss)


@each_rate
@pytest.mark.parametrize("steps", [1, 3])
def test_charges_what_it_takes(lr, steps):
    problem, hparams = layers("inputs")
    charged, counted = charged_and_counted(SOBA(steps, lr=lr), problem, hparams)
    assert 0.85 * charged < counted < 1.05 * charged
    problem, hparams = layers("weights")  # λ beside the network costs no pass of it
    charged, counted = charged_and_counted(SOBA(steps, lr=lr), problem, hparams)
    assert 0.85 * (charged - 2) < counted < 1.05 * charged


def test_a_descent_on_the_way_ends_where_the_minimum_is():
    """Against a descent by exact implicit hypergradients of whole runs."""
    result = optimize(Ridge(horizon=200, budget=20_000.0), "soba", seed=1)
    exact = optimize(Ridge(horizon=100, budget=15_000.0), "implicit", seed=1)
    assert result.outer_loss == pytest.approx(exact.outer_loss, rel=1e-2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SOBA(0), "SOBA needs steps >= 1, but got steps=0"),
        (lambda: SOBA(lr=0.0), r"SOBA needs lr > 0, but got lr=0\.0: leave it out"),
        (lambda: SOBA(lr="fast"), "lr"),
    ],
)
def test_settings_that_make_no_sense(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_needs_an_inner_minimum_that_moves():
    problem, hparams = layers("optimizer")
    with pytest.raises(ValueError, match=r"'lr'.*has no implicit effect|no implicit"):
        hypergradient(problem, hparams, SOBA())
