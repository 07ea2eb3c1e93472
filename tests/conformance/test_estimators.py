"""What every estimator must satisfy; a new one is one line in CASES."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch

from raymeta._tree import detach, tree_leaves
from raymeta.hypergrad import (
    Checkpointed,
    Estimator,
    Forward,
    Reverse,
    Reversible,
    ShortTerm,
    Truncated,
    hypergradient,
)
from raymeta.hypergrad.base import unroll
from raymeta.optim import sgd
from raymeta.problem import BilevelProblem, descent
from raymeta.tasks import Quadratic
from raymeta.types import Hparams
from tests.support.problems import sgd_everything
from tests.support.truth import (
    central_differences,
    flops,
    largest_relative_error,
    run_differences,
)

pytestmark = pytest.mark.usefixtures("float64")
STEPS = 20


class Case(NamedTuple):
    """An estimator of dE(s_T)/dλ over whole runs, or of the next few steps.

    Attributes:
        make: steps -> the estimator.
        whole: over whole runs.
        refuses_zero: it refuses a momentum or weight decay that is exactly 0.
    """

    make: Callable[[int], Estimator]
    whole: bool
    refuses_zero: bool = False


CASES = {
    "reverse": Case(Reverse, whole=True),
    "reverse-higher": Case(
        lambda t: Reverse(t, engine="higher"), whole=True, refuses_zero=True
    ),
    "forward": Case(Forward, whole=True),
    "truncated": Case(lambda steps: Truncated(steps, window=steps), whole=True),
    "checkpointed": Case(Checkpointed, whole=True),
    "checkpointed-states": Case(lambda t: Checkpointed(t, states=3), whole=True),
    "reversible": Case(lambda t: Reversible(t, fractional_bits=56), whole=True),
    "short-term": Case(ShortTerm, whole=False),
}
WHOLE = {name: case for name, case in CASES.items() if case.whole}


def cases(table: dict[str, Case]):
    return pytest.mark.parametrize("case", table.values(), ids=table)


@cases(WHOLE)
def test_agrees_with_central_differences_for_every_kind_of_hyperparameter(case):
    problem, hparams = sgd_everything()
    result = hypergradient(problem, hparams, case.make(STEPS))
    truth = run_differences(problem, hparams, STEPS)
    assert largest_relative_error(result.grads, truth) < 1e-7


@cases(WHOLE)
def test_agrees_with_reverse_to_rounding(case):
    problem, hparams = sgd_everything()
    result = hypergradient(problem, hparams, case.make(STEPS))
    truth = hypergradient(problem, hparams, Reverse(STEPS))
    assert largest_relative_error(result.grads, truth.grads) < 1e-11
    torch.testing.assert_close(result.outer_loss, truth.outer_loss, rtol=1e-13, atol=0)


@cases(WHOLE)
def test_equals_the_closed_form_on_the_quadratic(case):
    task = Quadratic()
    start = task.start(seed=4)
    hparams = {"lr": torch.tensor(0.07), "momentum": torch.tensor(0.6)}
    result = hypergradient(task.sample(4), hparams, case.make(task.horizon))
    value, grads = task.closed_form(0.07, 0.6, task.horizon, start)
    assert float(result.outer_loss) == pytest.approx(value, rel=1e-12)
    for name, truth in grads.items():
        assert float(result.grads[name]) == pytest.approx(truth, rel=1e-10)


@cases(CASES)
def test_true_gradient_where_the_hyperparameter_is_zero(case):
    problem, hparams = sgd_everything()
    zeros = ("momentum", "dampening", "weight_decay", "l2")
    hparams |= {name: torch.tensor(0.0) for name in zeros}
    if not case.whole:
        del hparams["init_scale"]
    estimator = case.make(3)
    if case.refuses_zero:
        for name in ("momentum", "weight_decay"):
            with pytest.raises(ValueError, match=f"needs {name} > 0"):
                hypergradient(problem, hparams, estimator)
            hparams[name] = torch.tensor(0.1)
    result = hypergradient(problem, hparams, estimator)
    truth = run_differences(problem, hparams, 3)
    assert largest_relative_error(result.grads, truth) < 1e-6
    assert all(float(result.grads[name].abs().sum()) > 0 for name in zeros)


@cases(CASES)
def test_no_nan_where_the_inner_gradient_is_zero(case):
    task = Quadratic(initial=(0.0, 0.0, 0.0))
    hparams = {"lr": torch.tensor(0.1), "momentum": torch.tensor(0.5)}
    result = hypergradient(task.sample(0), hparams, case.make(3))
    assert {name: float(g) for name, g in result.grads.items()} == {
        "lr": 0.0,
        "momentum": 0.0,
    }


@cases(CASES)
def test_a_disconnected_hyperparameter_is_named(case):
    problem, hparams = sgd_everything()
    if not case.whole:
        del hparams["init_scale"]
    hparams["unused"] = torch.tensor(1.0)
    with pytest.raises(ValueError, match="does not depend on hyperparameter 'unused'"):
        hypergradient(problem, hparams, case.make(2))


@cases(WHOLE)
def test_an_operator_without_the_derivative_is_named_before_step_1(case):
    x, c = torch.randn(6, 3), torch.randn(2, 3)
    steps = []

    def loss(params, hparams, batch) -> torch.Tensor:
        steps.append(batch)
        return torch.cdist(x, params["c"], p=3.0).square().mean()

    problem = descent(
        init_params=lambda hparams: {"c": c},
        inner_loss=loss,
        outer_loss=lambda params, hparams: params["c"].square().sum(),
        optimizer=lambda h: sgd(h["lr"], momentum=0.5),
    )
    hparams = {"lr": torch.tensor(0.1)}
    with pytest.raises(ValueError, match=r"derivative.*cdist"):
        hypergradient(problem, hparams, case.make(50))
    assert len(steps) <= 2


@cases(CASES)
def test_no_differentiable_hyperparameter_is_an_error(case):
    problem, hparams = sgd_everything()
    numbers = {name: value.tolist() for name, value in hparams.items()}
    numbers["example_weight"] = torch.ones(16, dtype=torch.int64)
    with pytest.raises(ValueError, match="at least one floating-point tensor"):
        hypergradient(problem, numbers, case.make(2))


@cases(CASES)
def test_steps_below_one_are_refused(case):
    with pytest.raises(ValueError, match="steps >= 1, but got steps=0"):
        case.make(0)


@cases(CASES)
def test_leaves_nothing_attached_and_changes_no_input(case):
    problem, hparams = sgd_everything()
    if not case.whole:
        del hparams["init_scale"]
    before = {name: value.clone() for name, value in hparams.items()}
    estimator = case.make(3)
    rollout = estimator.init(problem, hparams)
    result, rollout = estimator.estimate(problem, hparams, rollout)
    tensors = [t for t in tree_leaves((result, rollout)) if isinstance(t, torch.Tensor)]
    assert not any(t.requires_grad for t in tensors)
    for name, value in hparams.items():
        assert torch.equal(value, before[name])
        assert not value.requires_grad


@cases(CASES)
def test_no_stale_values_after_a_hyper_step(case):
    problem, hparams = sgd_everything()
    if not case.whole:
        del hparams["init_scale"]
    estimator = case.make(3)
    hypergradient(problem, hparams, estimator)
    moved = {name: value * 1.1 for name, value in hparams.items()}
    again = hypergradient(problem, moved, estimator)
    fresh_problem, _ = sgd_everything()
    fresh = hypergradient(fresh_problem, moved, case.make(3))
    for name, grad in fresh.grads.items():
        assert torch.equal(again.grads[name], grad)


@cases(CASES)
def test_charge_equals_the_count_of_multiplications(case):
    problem, hparams = heavy_problem()
    estimator = case.make(STEPS)
    rollout = estimator.init(problem, hparams)
    state = detach(problem.init(hparams))
    unit = flops(lambda: problem.step(state, hparams, problem.batch(0)))
    # First, since what is traced runs twice while it is.
    charged = estimator.estimate(problem, hparams, rollout)[0].gradient_evals
    counted = flops(lambda: estimator.estimate(problem, hparams, rollout)) / unit
    assert charged == estimator.cost(problem, hparams)
    # The first layer's input has neither gradient nor tangent: a little less is done.
    assert 0.8 * charged < counted < 1.05 * charged


def heavy_problem() -> tuple[BilevelProblem, Hparams]:
    """Three equal layers, so that matrix products dominate."""
    generator = torch.Generator().manual_seed(0)
    start = {f"w{i}": torch.randn(48, 48, generator=generator) * 0.1 for i in range(6)}
    x = torch.randn(32, 48, generator=generator)

    def loss(params) -> torch.Tensor:
        y = x
        for i in range(6):
            y = torch.tanh(y @ params[f"w{i}"])
        return y.square().mean()

    problem = descent(
        init_params=lambda hparams: start,
        inner_loss=lambda params, hparams, batch: loss(params),
        outer_loss=lambda params, hparams: loss(params),
        optimizer=lambda h: sgd(h["lr"], momentum=0.5, weight_decay=h["weight_decay"]),
    )
    return problem, {"lr": torch.tensor(0.1), "weight_decay": torch.tensor(0.01)}


def test_short_term_is_the_derivative_with_the_state_held_fixed():
    problem, hparams = sgd_everything()
    del hparams["init_scale"]
    estimator = ShortTerm(2)
    rollout = estimator.init(problem, hparams)
    for _ in range(3):
        state, t = rollout.state, rollout.step
        result, rollout = estimator.estimate(problem, hparams, rollout)

        def ahead(moved: Hparams, state=state, t=t) -> float:
            after = unroll(problem, moved, state, t, 2)
            return float(problem.outer_loss(after, moved))

        truth = central_differences(ahead, hparams, 1e-5)
        assert largest_relative_error(result.grads, truth) < 1e-7
        assert rollout.step == t + 2


def test_short_term_is_baydins_formula_for_the_learning_rate():
    task = Quadratic(eigenvalues=(1.0, 4.0, 10.0))
    problem, h = task.sample(1), torch.tensor(task.eigenvalues)
    hparams = {"lr": torch.tensor(0.05), "momentum": torch.tensor(0.0)}
    estimator = ShortTerm()
    rollout = estimator.init(problem, hparams)
    w = rollout.state.params["w"]
    result, rollout = estimator.estimate(problem, hparams, rollout)
    next_w = w - 0.05 * h * w
    formula = -(h * next_w) @ (h * w)
    assert float(result.grads["lr"]) == pytest.approx(float(formula), rel=1e-12)


def test_short_term_says_that_it_cannot_see_the_start():
    problem, hparams = sgd_everything()
    with pytest.raises(ValueError, match=r"'init_scale'.*no short-term effect"):
        hypergradient(problem, hparams, ShortTerm())


def test_forward_continued_equals_one_longer_run():
    problem, hparams = sgd_everything()
    whole = hypergradient(problem, hparams, Forward(12))
    estimator = Forward(4)
    rollout = estimator.init(problem, hparams)
    for _ in range(3):
        result, rollout = estimator.estimate(problem, hparams, rollout)
    assert rollout.step == 12
    assert largest_relative_error(result.grads, whole.grads) < 1e-13


@pytest.mark.parametrize("make", [Reverse, Forward], ids=["reverse", "forward"])
def test_a_training_loss_that_no_parameter_enters_trains_nothing(make):
    problem = descent(
        init_params=lambda hparams: {"w": torch.ones(2) * hparams["start"]},
        inner_loss=lambda params, hparams, batch: torch.tensor(1.0),
        outer_loss=lambda params, hparams: params["w"].square().sum(),
        optimizer=lambda h: sgd(0.1, momentum=0.5),
    )
    result = hypergradient(problem, {"start": torch.tensor(3.0)}, make(4))
    assert float(result.grads["start"]) == 12.0
