"""One step ahead: Baydin's formulas, and the gradient that two steps share."""

import gc
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from raymeta import optim
from raymeta._tree import tree_leaves
from raymeta.hypergrad import ShortTerm, hypergradient
from raymeta.hypergrad.base import advance, unroll
from raymeta.outer.optimize import optimize
from raymeta.problem import BilevelProblem
from raymeta.tasks import Quadratic
from raymeta.testing.problems import mlp, sgd_everything
from raymeta.testing.truth import central_differences, flops, largest_relative_error
from raymeta.types import Hparams, Tensors
from tests.support.heavy import layers
from tests.support.memory import peak_bytes
from tests.support.noisy import noisy_network

pytestmark = pytest.mark.usefixtures("float64")
NEXT = ShortTerm(loss="next_batch")


def gradient(problem: BilevelProblem, params: Tensors, t: int) -> list[torch.Tensor]:
    """∇f(w, b_t), one tensor per parameter."""
    live = {name: w.detach().requires_grad_() for name, w in params.items()}
    state = problem.init({"lr": torch.tensor(0.0)})._replace(params=live)
    loss = problem.inner_loss(state, {}, problem.batch(t))
    return list(torch.autograd.grad(loss, list(live.values())))


# Each rule gives -∂u_t/∂α of the update w <- w + u_t, and what it remembers.
def sgd_rule(g, memory, t):
    return g, ()


def nesterov_rule(g, memory, t):
    # torch.optim steps along u_t = -α (g_t + μ v_t) with v_t = μ v_{t-1} + g_t, which
    # is Baydin's form too: no v holds an α, so that ∂u_t/∂α = -(g_t + μ v_t) is all of
    # the derivative. In v <- μ v - α g, the form of Sutskever et al., it would be that
    # of the last α alone: -(1 + μ) g_t.
    v = [0.9 * v + g for v, g in zip(memory or [0.0] * len(g), g, strict=True)]
    return [g + 0.9 * v for g, v in zip(g, v, strict=True)], v


def adam_rule(g, memory, t):
    m, v = memory or ([0.0] * len(g), [0.0] * len(g))
    m = [0.8 * m + 0.2 * g for m, g in zip(m, g, strict=True)]
    v = [0.99 * v + 0.01 * g * g for v, g in zip(v, g, strict=True)]
    hats = [(m / (1 - 0.8**t), v / (1 - 0.99**t)) for m, v in zip(m, v, strict=True)]
    return [m / (v.sqrt() + 1e-6) for m, v in hats], (m, v)


def baydin(
    problem: BilevelProblem, rule: Callable, lr: float, beta: float, steps: int
) -> Iterator[tuple[float, float]]:
    """h_t and α_t of Algorithms 4 to 6 for t = 1, 2, …: h_t = ∇f_t · ∂u_{t-1}/∂α."""
    params = problem.init({"lr": torch.tensor(lr)}).params
    memory: Any = ()
    g = gradient(problem, params, 0)
    for t in range(1, steps + 1):
        slope, memory = rule(g, memory, t)
        pairs = zip(params.items(), slope, strict=True)
        params = {name: w - lr * d for (name, w), d in pairs}
        g = gradient(problem, params, t)
        h = -sum(float((a * b).sum()) for a, b in zip(g, slope, strict=True))
        lr = lr - beta * h
        yield h, lr


@pytest.mark.parametrize(
    ("rule", "optimizer", "lr", "beta"),
    [
        (sgd_rule, lambda h: optim.sgd(h["lr"]), 0.1, 0.2),
        (
            nesterov_rule,
            lambda h: optim.sgd(h["lr"], momentum=0.9, nesterov=True),
            0.02,
            0.01,
        ),
        (
            adam_rule,
            lambda h: optim.adam(h["lr"], betas=(0.8, 0.99), eps=1e-6),
            0.01,
            1e-3,
        ),
    ],
    ids=["sgd", "nesterov", "adam"],
)
def test_is_baydins_formula_at_every_step_while_the_learning_rate_moves(
    rule, optimizer, lr, beta
):
    problem, hparams = mlp(optimizer), {"lr": torch.tensor(lr)}
    rollout = NEXT.init(problem, hparams)
    for h, alpha in baydin(problem, rule, lr, beta, steps=15):
        result, rollout = NEXT.estimate(problem, hparams, rollout)
        hparams = {"lr": hparams["lr"] - beta * result.grads["lr"]}
        assert float(result.grads["lr"]) == pytest.approx(h, rel=1e-12, abs=0)
        assert float(hparams["lr"]) == pytest.approx(alpha, rel=1e-12, abs=0)
    assert abs(alpha / lr - 1) > 0.2


def in_the_optimizer() -> tuple[BilevelProblem, Hparams]:
    hparams = {
        "lr": torch.tensor(0.3),
        "momentum": torch.tensor(0.7),
        "decay": torch.tensor(0.02),
    }

    def optimizer(h: Hparams) -> optim.Optimizer:
        return optim.sgd(h["lr"], momentum=h["momentum"], weight_decay=h["decay"])

    return mlp(optimizer), hparams


def of_one_layer() -> tuple[BilevelProblem, Hparams]:
    return mlp(lambda h: optim.sgd({"0": h["lr"], "2": 0.1})), {"lr": torch.tensor(0.3)}


def in_the_loss_too() -> tuple[BilevelProblem, Hparams]:
    problem, hparams = sgd_everything()
    del hparams["init_scale"]
    return problem, hparams


def by_another_step() -> tuple[BilevelProblem, Hparams]:
    problem, hparams = in_the_optimizer()
    return replace(problem, step=lambda s, h, b: problem.step(s, h, b)), hparams


@pytest.mark.parametrize(
    ("make", "steps", "cost"),
    [
        (in_the_optimizer, 1, 1),
        (of_one_layer, 1, 1),
        (in_the_loss_too, 1, 3 + 1),
        (by_another_step, 1, 1 + 1),
        (in_the_optimizer, 3, 1 + 3 + 3 + 1),
    ],
    ids=["shared", "shared, one layer", "in the loss", "no Descent", "three steps"],
)
def test_the_next_batch_loss_is_differentiated_with_the_state_held_fixed(
    make, steps, cost
):
    problem, hparams = make()
    estimator = ShortTerm(steps, loss="next_batch")
    rollout = estimator.init(problem, hparams)
    for _ in range(3):
        state, t = rollout.state, rollout.step

        def ahead(moved: Hparams, state=state, t=t) -> float:
            after = unroll(problem, moved, state, t, steps)
            return float(problem.inner_loss(after, moved, problem.batch(t + steps)))

        result, rollout = estimator.estimate(problem, hparams, rollout)
        truth = central_differences(ahead, hparams, 1e-3)
        assert largest_relative_error(result.grads, truth) < 1e-8
        assert float(result.outer_loss) == pytest.approx(ahead(hparams), rel=1e-13)
        # Moved: no gradient may be that of the last λ.
        hparams = {name: value * 1.1 for name, value in hparams.items()}
    assert result.gradient_evals == estimator.cost(problem, hparams) == cost


def test_sharing_trains_as_plain_training_does_and_changes_no_derivative():
    problem, hparams = noisy_network()
    unshared = replace(problem, step=lambda s, h, b: problem.step(s, h, b))
    rollout, other = NEXT.init(problem, hparams), NEXT.init(unshared, hparams)
    for t in range(1, 8):  # into the second epoch
        result, rollout = NEXT.estimate(problem, hparams, rollout)
        truth, other = NEXT.estimate(unshared, hparams, other)
        assert largest_relative_error(result.grads, truth.grads) < 1e-12
        assert torch.equal(result.outer_loss, truth.outer_loss)
        plain = advance(problem, hparams, problem.init(hparams), 0, t)
        for got, expected in zip(
            tree_leaves(rollout.state), tree_leaves(plain), strict=True
        ):
            assert torch.equal(got, expected)


# Inductor imports what torch itself deprecates.
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method`:DeprecationWarning")
def test_compiled_sharing_gives_the_same():
    problem, hparams = in_the_optimizer()
    compiled = replace(NEXT, compile=True)
    rollout, other = NEXT.init(problem, hparams), compiled.init(problem, hparams)
    for charge in (2, 1, 1):
        truth, rollout = NEXT.estimate(problem, hparams, rollout)
        result, other = compiled.estimate(problem, hparams, other)
        assert largest_relative_error(result.grads, truth.grads) < 1e-13
        assert result.gradient_evals == charge


def test_nothing_of_a_shared_estimate_stays_attached():
    problem, hparams = in_the_optimizer()
    outcome = NEXT.estimate(problem, hparams, NEXT.init(problem, hparams))
    tensors = [x for x in tree_leaves(outcome) if isinstance(x, torch.Tensor)]
    assert not any(x.requires_grad for x in tensors)
    assert not any(value.requires_grad for value in hparams.values())


def test_a_shared_gradient_is_charged_as_it_is_counted():
    problem, hparams = layers("optimizer")
    state = problem.init(hparams)
    unit = flops(lambda: problem.step(state, hparams, problem.batch(0)))
    rollout = NEXT.init(problem, hparams)
    charges = []
    for _ in range(3):
        before = rollout
        counted = flops(lambda at=before: NEXT.estimate(problem, hparams, at)) / unit
        result, rollout = NEXT.estimate(problem, hparams, before)
        assert counted == result.gradient_evals
        charges.append(counted)
    assert charges == [2, 1, 1]
    assert NEXT.cost(problem, hparams) == 1


@pytest.mark.parametrize("estimator", [ShortTerm(), NEXT], ids=["outer", "next batch"])
def test_memory_does_not_grow_without_the_garbage_collector(estimator):
    problem, hparams = in_the_optimizer()

    def run(steps: int) -> None:
        rollout = estimator.init(problem, hparams)
        for _ in range(steps):
            _, rollout = estimator.estimate(problem, hparams, rollout)

    run(1)  # what is asked of a problem once takes memory of its own
    gc.disable()
    try:
        assert peak_bytes(lambda: run(200)) == peak_bytes(lambda: run(10))
    finally:
        gc.enable()


@pytest.mark.parametrize("name", ["unused", "init_scale"])
def test_a_shared_hyperparameter_without_effect_is_named(name):
    problem, hparams = in_the_optimizer()
    hparams[name] = torch.tensor(1.0)
    with pytest.raises(ValueError, match=f"'{name}'.*no short-term effect"):
        hypergradient(problem, hparams, NEXT)


def test_where_no_hyperparameter_is_in_the_update_all_are_named():
    problem = mlp(lambda h: optim.sgd(0.1))
    with pytest.raises(ValueError, match="depend on hyperparameter 'init_scale'"):
        hypergradient(problem, {"init_scale": torch.tensor(1.0)}, NEXT)


def test_a_problem_without_inner_loss_has_no_next_batch_loss():
    problem, hparams = in_the_optimizer()
    with pytest.raises(ValueError, match="needs the problem's inner_loss"):
        hypergradient(replace(problem, inner_loss=None), hparams, NEXT)


def test_another_loss_is_refused():
    with pytest.raises(ValueError, match="but got loss='train'"):
        ShortTerm(loss="train")  # type: ignore[arg-type]


def test_a_descent_is_not_scored_by_minibatches():
    with pytest.raises(ValueError, match="use loss='outer'"):
        optimize(Quadratic(), NEXT)
