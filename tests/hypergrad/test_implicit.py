"""The implicit hypergradient against dense exact ones."""

import pytest
import torch
from torch.func import hessian, jacrev

from raymeta._tree import tree_leaves
from raymeta.hypergrad import (
    ConjugateGradient,
    FixedPoint,
    Implicit,
    Neumann,
    Reverse,
    hypergradient,
)
from raymeta.optim import sgd
from raymeta.problem import BilevelProblem, descent
from raymeta.testing.problems import mlp, sgd_everything
from raymeta.testing.truth import largest_relative_error
from raymeta.types import Batch, Hparams, Tensors
from tests.support.heavy import charged_and_counted, layers
from tests.support.ridge import D, Ridge

pytestmark = pytest.mark.usefixtures("float64")
SOLVERS = {
    "cg": ConjugateGradient(50, tolerance=1e-13),
    "neumann": Neumann(600, lr=0.4, tolerance=1e-12),
    "fixed-point": FixedPoint(4000, tolerance=1e-13),
}
every_solver = pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)


@every_solver
def test_equals_the_closed_form_of_ridge_regression(solver):
    task = Ridge()
    l2 = torch.linspace(0.05, 0.8, D)
    result = hypergradient(task.sample(1), {"l2": l2}, Implicit(600, solver))
    truth = task.closed_form(1, l2)
    assert float((result.grads["l2"] - truth).norm() / truth.norm()) < 1e-10
    assert 0 <= result.residual <= 1.01e-12


def test_equals_reverse_through_training_to_convergence():
    problem, hparams = Ridge().sample(2), {"l2": torch.full((D,), 0.3)}
    implicit = hypergradient(problem, hparams, Implicit(300))
    reverse = hypergradient(problem, hparams, Reverse(300))
    assert largest_relative_error(implicit.grads, reverse.grads) < 1e-9
    torch.testing.assert_close(implicit.outer_loss, reverse.outer_loss)


def logistic() -> tuple[BilevelProblem, Hparams, Tensors]:
    """Logistic regression with an l2 per weight and a weight per example."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(30, 4, generator=generator)
    y = (x[:, 0] + 0.5 * torch.randn(30, generator=generator) > 0).double()
    x_val = torch.randn(20, 4, generator=generator)
    y_val = (x_val[:, 0] > 0).double()

    def cross_entropy(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.softplus(logits) - y * logits

    def inner_loss(params: Tensors, h: Hparams, batch: Batch) -> torch.Tensor:
        losses = cross_entropy(x @ params["w"] + params["b"], y)
        penalty = (torch.exp(h["log_l2"]) * params["w"].square()).sum()
        bias = params["b"].square()
        return (torch.sigmoid(h["example"]) * losses).mean() + 0.5 * (penalty + bias)

    problem = descent(
        init_params=lambda h: {"w": torch.zeros(4), "b": torch.tensor(0.0)},
        inner_loss=inner_loss,
        outer_loss=lambda p, h: (
            cross_entropy(x_val @ p["w"] + p["b"], y_val).mean()
            + 0.1 * h["log_l2"].square().sum()
        ),
        optimizer=lambda h: sgd(0.5),
    )
    hparams = {
        "log_l2": torch.tensor([-2.0, -1.0, -1.5, -0.5]),
        "example": torch.linspace(-1, 1, 30),
    }
    return problem, hparams, {"x": x, "y": y, "x_val": x_val, "y_val": y_val}


@every_solver
def test_equals_the_dense_formula_of_logistic_regression(solver):
    problem, hparams, data = logistic()
    estimator = Implicit(400, solver)
    rollout = estimator.init(problem, hparams)
    result, rollout = estimator.estimate(problem, hparams, rollout)
    w = torch.cat([rollout.state.params["w"], rollout.state.params["b"].view(1)])

    def with_ones(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, torch.ones(len(x), 1)], dim=1)

    x, x_val = with_ones(data["x"]), with_ones(data["x_val"])
    p, p_val = torch.sigmoid(x @ w), torch.sigmoid(x_val @ w)
    share, l2 = torch.sigmoid(hparams["example"]), torch.exp(hparams["log_l2"])
    curvature = torch.diag(torch.cat([l2, torch.ones(1)]))
    matrix = x.T @ torch.diag(share * p * (1 - p)) @ x / 30 + curvature
    v = torch.linalg.solve(matrix, x_val.T @ (p_val - data["y_val"]) / 20)
    truth = {
        "log_l2": 0.2 * hparams["log_l2"] - v[:4] * l2 * w[:4],
        "example": -(x @ v) * (p - data["y"]) * share * (1 - share) / 30,
    }
    assert largest_relative_error(result.grads, truth) < 1e-10


def test_equals_how_the_minimum_of_logistic_regression_moves():
    problem, hparams, _ = logistic()
    result = hypergradient(problem, hparams, Implicit(400))
    direction = {"log_l2": torch.ones(4), "example": torch.linspace(1, -2, 30)}

    def at(shift: float) -> float:
        moved = {k: v + shift * direction[k] for k, v in hparams.items()}
        return float(hypergradient(problem, moved, Implicit(400)).outer_loss)

    slope = (at(1e-4) - at(-1e-4)) / 2e-4
    found = sum(float((direction[k] * g).sum()) for k, g in result.grads.items())
    assert found == pytest.approx(slope, rel=1e-7)


@every_solver
def test_equals_the_dense_formula_of_a_network_on_the_batch_after_the_last(solver):
    problem = mlp(lambda h: sgd(0.3), hparams_in_loss=True)
    hparams = {
        "example_weight": torch.linspace(-1, 1, 16),
        "l2": torch.tensor(0.3),
    }
    estimator = Implicit(25, solver)
    rollout = estimator.init(problem, hparams)
    result, rollout = estimator.estimate(problem, hparams, rollout)
    state = rollout.state
    sizes = [w.numel() for w in state.params.values()]
    flat = torch.cat([w.flatten() for w in state.params.values()])

    def unflatten(w: torch.Tensor) -> Tensors:
        parts = zip(state.params.items(), w.split(sizes), strict=True)
        return {name: part.view_as(old) for (name, old), part in parts}

    def inner(w: torch.Tensor, h: Hparams) -> torch.Tensor:
        moved = state._replace(params=unflatten(w))
        return problem.inner_loss(moved, h, problem.batch(25))

    def outer(w: torch.Tensor) -> torch.Tensor:
        return problem.outer_loss(state._replace(params=unflatten(w)), hparams)

    v = torch.linalg.solve(hessian(inner)(flat, hparams), jacrev(outer)(flat))
    mixed = jacrev(jacrev(inner), argnums=1)(flat, hparams)
    truth = {name: -torch.tensordot(v, m, dims=1) for name, m in mixed.items()}
    assert largest_relative_error(result.grads, truth) < 1e-10


def test_leaves_nothing_attached_and_ends_where_plain_training_does():
    problem, hparams, _ = logistic()
    estimator = Implicit(20)
    rollout = estimator.init(problem, hparams)
    result, rollout = estimator.estimate(problem, hparams, rollout)
    leaves = [x for x in tree_leaves((result, rollout)) if isinstance(x, torch.Tensor)]
    assert not any(leaf.requires_grad for leaf in leaves)
    assert rollout.step == 20
    reverse = Reverse(20)
    _, plain = reverse.estimate(problem, hparams, reverse.init(problem, hparams))
    for name, w in plain.state.params.items():
        torch.testing.assert_close(rollout.state.params[name], w, rtol=1e-13, atol=0)


def test_what_acts_on_the_way_alone_is_named_before_training():
    problem, hparams = sgd_everything()
    with pytest.raises(ValueError, match=r"'lr'.*'init_scale'.*no implicit effect"):
        Implicit(100).init(problem, hparams)


def test_a_problem_without_inner_loss_is_refused():
    problem = BilevelProblem(
        init=lambda h: h["a"],
        batch=lambda t: Batch(torch.tensor(t), ()),
        step=lambda s, h, b: 0.5 * s,
        outer_loss=lambda s, h: s.square(),
    )
    with pytest.raises(ValueError, match="needs the problem's inner_loss"):
        hypergradient(problem, {"a": torch.tensor(1.0)}, Implicit(3))


def test_a_state_without_params_is_refused():
    problem = BilevelProblem(
        init=lambda h: h["a"],
        batch=lambda t: Batch(torch.tensor(t), ()),
        step=lambda s, h, b: s - 0.1 * (s - h["a"]),
        outer_loss=lambda s, h: s.square(),
        inner_loss=lambda s, h, b: 0.5 * (s - h["a"]).square(),
    )
    with pytest.raises(ValueError, match=r"needs a TrainState.*got a Tensor"):
        hypergradient(problem, {"a": torch.tensor(1.0)}, Implicit(3))


def test_steps_below_one_are_refused():
    with pytest.raises(ValueError, match="steps >= 1, but got steps=0"):
        Implicit(0)


def test_non_convergence_reaches_the_user():
    problem, hparams, _ = logistic()
    with pytest.raises(ValueError, match=r"Conjugate.*residual .* after 1 iteration,"):
        hypergradient(problem, hparams, Implicit(50, ConjugateGradient(1)))


def test_a_diverged_run_is_not_finite_rather_than_an_error():
    problem, hparams = Ridge().sample(0), {"l2": torch.full((D,), 50.0)}
    result = hypergradient(problem, hparams, Implicit(400))
    assert not result.outer_loss.isfinite()
    assert not result.grads["l2"].isfinite().all()


@pytest.mark.parametrize("where", ["weights", "inputs"])
@pytest.mark.parametrize(
    "solver",
    [
        ConjugateGradient(20, tolerance=1e-3),
        Neumann(4, lr=0.5, tolerance=0.5),
        FixedPoint(20, tolerance=1e-3),
    ],
    ids=["cg", "neumann", "fixed-point"],
)
def test_charges_the_products_that_it_took(where, solver):
    problem, hparams = layers(where)
    estimator = Implicit(12, solver)
    charged, counted = charged_and_counted(estimator, problem, hparams)
    assert 0.85 * charged < counted < 1.05 * charged
    assert charged <= estimator.cost(problem, hparams)
