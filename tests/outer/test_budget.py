"""The meter, what things cost, and descents that spend no more than their budget."""

import itertools
import math
from dataclasses import replace

import pytest
import torch

from raymeta import optimize
from raymeta.hypergrad import Reverse, ShortTerm
from raymeta.hypergrad.base import plain_cost
from raymeta.optim import sgd
from raymeta.outer.budget import BudgetMeter
from raymeta.outer.descend import descend
from raymeta.problem import descent
from raymeta.tasks import Quadratic
from tests.support.small_tasks import (
    Diverging,
    Small,
    every_estimator,
    run_cost,
    with_horizon,
)

pytestmark = pytest.mark.usefixtures("float64")


def test_the_meter_covers_what_is_left_up_to_rounding():
    meter = BudgetMeter(1.0)
    for _ in range(9):
        assert meter.covers(0.1)
        meter.charge(0.1)
    assert meter.spent + 0.1 != 1.0
    assert meter.covers(0.1)
    meter.charge(0.1)
    assert not meter.covers(1e-6)
    assert (meter.runs(0.1), BudgetMeter(0.3, spent=0.1).runs(0.1)) == (0, 2)
    assert meter.covers(0.0)


def test_reports_are_numbered_and_know_what_is_spent():
    meter = BudgetMeter(10.0)
    meter.charge(1.5)
    first = meter.report(3, 0.5, {"x": 1.0})
    meter.charge(2.0)
    schedule = [(5, {"x": 1.0})]
    second = meter.report(
        5, 0.4, {"x": 1.0}, complete=True, state="state", schedule=schedule
    )
    assert (first.outer_step, second.outer_step) == (1, 2)
    assert (first.gradient_evals, second.gradient_evals) == (1.5, 3.5)
    assert (first.complete, first.state, first.schedule) == (False, None, None)
    assert (second.complete, second.state) == (True, "state")
    assert second.schedule == [(5, {"x": 1.0})]


def test_an_outer_loss_without_gradient_is_a_third_of_a_pass():
    problem = descent(
        init_params=lambda hparams: {"w": torch.ones(1)},
        inner_loss=lambda params, hparams, batch: params["w"].square().sum(),
        outer_loss=lambda params, hparams: params["w"].square().sum(),
        optimizer=lambda hparams: sgd(0.1),
        outer_cost=6.0,
    )
    assert plain_cost(problem, 7) == 9.0


@every_estimator
def test_a_budget_of_one_run_is_one_run(estimator):
    task = Small(horizon=13)
    estimator = with_horizon(estimator, 13)
    cost = run_cost(estimator, task)
    reports = list(descend(task, task.sample(0), estimator, seed=0, budget=cost))
    assert reports[-1].complete
    assert reports[-1].inner_steps == 13
    assert reports[-1].gradient_evals <= cost * (1 + 1e-12)
    assert [report.complete for report in reports[:-1]] == [False] * (len(reports) - 1)
    message = rf"at least {math.ceil(cost)} gradient evaluations for one run, but got"
    with pytest.raises(ValueError, match=message):
        descend(task, task.sample(0), estimator, seed=0, budget=cost * (1 - 1e-6))


@every_estimator
@pytest.mark.parametrize(("horizon", "extra"), [(16, 1.7), (7, 233.0)])
def test_the_budget_is_spent_but_never_exceeded(estimator, horizon, extra):
    task = Small(horizon=horizon)
    estimator = with_horizon(estimator, horizon)
    if estimator.steps > horizon:
        estimator = replace(estimator, steps=horizon - 1)
    cost = run_cost(estimator, task)
    budget = cost + extra
    reports = list(descend(task, task.sample(1), estimator, seed=0, budget=budget))
    spent = [report.gradient_evals for report in reports]
    assert spent == sorted(spent)
    assert spent[-1] <= budget
    assert budget - spent[-1] < cost
    assert [report.outer_step for report in reports] == list(range(1, len(reports) + 1))


@every_estimator
def test_a_diverging_problem_does_not_exceed_it_either(estimator):
    task = Diverging(lr=1e30, horizon=13)
    reports = list(descend(task, task.sample(0), estimator, seed=0, budget=151.0))
    assert reports[-1].gradient_evals <= 151.0
    assert any(report.outer_loss == math.inf for report in reports)


def test_the_charge_counts_hyperparameters_in_the_inner_loss():
    """Quadratic has none there: the first gradient of a look-ahead costs 1, not 3."""
    task = Quadratic(horizon=20)
    plain = 20 + 1 / 3
    (zero, one, *_) = descend(task, task.sample(0), ShortTerm(3), seed=0, budget=100)
    assert zero.gradient_evals == plain
    assert one.gradient_evals - plain == pytest.approx(1 + 3 + 3 + 1)
    reports = list(descend(task, task.sample(0), ShortTerm(3), seed=0, budget=53))
    assert [r.inner_steps for r in reports] == [3, 6, 9, 12, 15, 18, 20]
    assert reports[-1].gradient_evals == 6 * (1 + 6 + 1) + (1 + 3 + 1)


def test_whole_runs_look_at_short_horizons_first_where_the_budget_has_room():
    """7, 13 and 25 for 2, 4 and 8 steps by Reverse; 16 1/3 for a plain run of 16.

    Where it has not, the start is looked at by the first hypergradient, for 49.
    """
    task = Quadratic(horizon=16)
    problem, estimator = task.sample(0), Reverse(16)
    plain = 16 + 1 / 3
    enough = plain + 7 + 13 + 25 + plain
    wide = list(descend(task, problem, estimator, seed=0, budget=enough))
    assert [report.inner_steps for report in wide] == [16, 2, 4, 8, 16]
    spent = [report.gradient_evals for report in wide]
    charges = [plain, plain + 7, plain + 20, plain + 45, enough]
    assert spent == pytest.approx(charges, rel=1e-12)
    narrow = list(descend(task, problem, estimator, seed=0, budget=enough - 1e-3))
    assert [report.inner_steps for report in narrow] == [16, 16]
    assert [r.gradient_evals for r in narrow] == pytest.approx([49, 49 + plain])
    assert narrow[0].hparams == wide[0].hparams


def test_a_step_that_fails_is_searched_by_plain_runs_at_a_third_of_the_charge():
    task = Quadratic(horizon=16)
    reports = list(descend(task, task.sample(0), Reverse(16), seed=0, budget=2000))
    charges = [
        after.gradient_evals - before.gradient_evals
        for before, after in itertools.pairwise(reports)
        if after.complete
    ]
    assert {round(charge, 9) for charge in charges} == {49.0, round(16 + 1 / 3, 9)}


def test_an_estimator_of_longer_runs_is_cut_to_the_horizon():
    task = Quadratic(horizon=9)
    longer = optimize(task, Reverse(500), budget=300)
    exact = optimize(task, Reverse(9), budget=300)
    assert longer.outer_loss == exact.outer_loss
    assert len(longer.reports) == len(exact.reports)
