"""Descents with every estimator: known optima, divergence, horizons, replay."""

import math
from dataclasses import replace

import pytest
import torch

from raymeta.hypergrad import (
    ES,
    PES,
    Checkpointed,
    ConjugateGradient,
    Estimator,
    Forward,
    Implicit,
    Reverse,
    ShortTerm,
    Truncated,
)
from raymeta.outer.descend import descend
from raymeta.outer.optimize import optimize
from raymeta.outer.replay import replay
from raymeta.outer.report import plain_run
from raymeta.problem import BilevelProblem
from raymeta.tasks import Quadratic
from tests.support.ridge import Ridge
from tests.support.small_tasks import Diverging, OneStep, Small, run_cost

pytestmark = pytest.mark.usefixtures("float64")
TASK = Ridge(horizon=40, budget=3000)
ESTIMATORS: dict[str, Estimator] = {
    "reverse": Reverse(40),
    "truncated": Truncated(40, window=10),
    "checkpointed": Checkpointed(40),
    "checkpointed-segments": Checkpointed(40, segments=30),
    "checkpointed-states": Checkpointed(40, states=3),
    "implicit": Implicit(40, ConjugateGradient(20)),
    "es": ES(40, sigma=0.02, pairs=4),
    "pes": PES(10, sigma=0.02, pairs=4),
}
every_estimator = pytest.mark.parametrize(
    "estimator", ESTIMATORS.values(), ids=ESTIMATORS
)


@every_estimator
def test_descends_within_the_budget_to_a_run_that_replays(estimator):
    result = optimize(TASK, estimator)
    assert result.reports[-1].gradient_evals <= TASK.budget
    problem = TASK.sample(0)
    start = plain_run(problem, TASK.space.initial(), TASK.horizon)[1]
    assert result.outer_loss < 0.5 * start
    again = replay(problem, TASK.space, result.schedule)
    for name, w in result.state.params.items():
        torch.testing.assert_close(again.params[name], w, rtol=1e-12, atol=1e-15)


@every_estimator
def test_looks_at_shorter_horizons_first_or_ends_with_a_shorter_window(estimator):
    task = Ridge(horizon=35)
    reports = descend(
        task, task.sample(0), estimator, seed=0, budget=20_000, hyper_lr=1.0
    )
    steps = [next(reports).inner_steps for _ in range(6)]
    online = [35, 10, 20, 30, 35, 10]
    assert steps == (online if estimator.continues else [35, 4, 8, 17, 35, 35])


# ---------------------------------------------------------------------- known optima


@pytest.mark.parametrize("estimator", [Reverse(1), Forward(1)], ids=str)
def test_finds_the_best_learning_rate_of_one_step(estimator):
    task = OneStep()
    assert task.best_lr == pytest.approx(91 / 757, rel=1e-12)
    result = optimize(task, estimator)
    assert float(result.hparams["lr"]) == pytest.approx(task.best_lr, rel=0.02)
    best = 0.5 * sum(h * (1 - task.best_lr * h) ** 2 for h in task.eigenvalues)
    assert best <= result.outer_loss <= 1.001 * best


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_finds_the_optimum_of_the_quadratic_in_the_box(seed):
    """Against a grid of the closed form."""
    task = Quadratic(horizon=3, eigenvalues=(1.0, 3.0))
    start = task.start(seed)
    rates = torch.logspace(-3, -0.5, 60).tolist()
    momenta = torch.linspace(0, 0.99, 50).tolist()
    grid = [task.closed_form(a, m, 3, start)[0] for a in rates for m in momenta]
    result = optimize(task, Reverse(3), budget=600, seed=seed)
    lr, momentum = float(result.hparams["lr"]), float(result.hparams["momentum"])
    found = task.closed_form(lr, momentum, 3, start)[0]
    assert found == pytest.approx(result.outer_loss, rel=1e-10)
    assert found < 1.03 * min(grid)
    assert 1e-3 <= lr <= 10**-0.5 * (1 + 1e-12)


@pytest.mark.parametrize("estimator", [ShortTerm(1), ShortTerm(7), Forward(5)], ids=str)
def test_online_methods_reach_far_below_the_start(estimator):
    task = Quadratic()
    start = plain_run(task.sample(0), task.space.initial(), task.horizon)[1]
    result = optimize(task, estimator, budget=1000)
    assert result.outer_loss < 0.03 * start


@pytest.mark.parametrize("estimator", [Reverse(13), ShortTerm(5)], ids=str)
def test_choices_stay_at_their_initial_value(estimator):
    task = Small()
    result = optimize(task, estimator, budget=2 * run_cost(estimator, task))
    assert result.hparams["sign"] == 1.0
    assert {report.hparams["sign"] for report in result.reports} == {1.0}


# -------------------------------------------------------------------------- divergence


@pytest.mark.parametrize(
    "estimator", [Reverse(20), ShortTerm(1), ShortTerm(7), Forward(6)], ids=str
)
def test_a_start_that_diverges_is_left(estimator):
    torch.set_default_dtype(torch.float32)
    task = Diverging(lr=3.0)
    value = plain_run(task.sample(0), task.space.initial(), 20)[1]
    assert not math.isfinite(value)
    result = optimize(task, estimator, budget=2000)
    assert result.outer_loss < 10
    assert float(result.hparams["lr"]) < 0.5
    for report in result.reports:
        assert all(math.isfinite(value) for value in report.hparams.values())
        assert 0 < report.hparams["momentum"] < 1


def test_a_run_that_grows_without_overflow_is_left_too():
    task = Diverging(lr=0.5)
    assert 1e6 < plain_run(task.sample(0), task.space.initial(), 20)[1] < math.inf
    for estimator in (ShortTerm(7), Forward(6)):
        assert optimize(task, estimator, budget=2000).outer_loss < 0.01


def test_without_any_finite_run_the_budget_is_spent_and_the_error_says_so():
    class Hopeless(OneStep):
        def sample(self, seed: int) -> BilevelProblem:
            problem = super().sample(seed)
            return replace(problem, outer_loss=lambda s, h: s.params["w"].sum() / 0)

    task = Hopeless()
    for estimator in (Reverse(1), ShortTerm(1)):
        message = (
            r"no run of 'one step' ended with a finite outer loss in \d+ estimates"
        )
        with pytest.raises(ValueError, match=message):
            optimize(task, estimator, budget=60)
