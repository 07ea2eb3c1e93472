"""Plain training along a schedule of λ, and at fixed λ."""

import math
from dataclasses import replace

import pytest
import torch

from raymeta.hypergrad import Forward
from raymeta.outer.descend import descend, evaluate
from raymeta.outer.optimize import mean_hparams
from raymeta.outer.replay import loss_curve, replay
from raymeta.outer.report import outer_value, plain_run
from raymeta.space import Choice, Positive, Real, Space, Unit
from raymeta.tasks import Quadratic
from tests.support.small_tasks import (
    Small,
    every_estimator,
    run_cost,
)

pytestmark = pytest.mark.usefixtures("float64")


# --------------------------------------------------------------------- at fixed λ


def test_evaluate_charges_every_step_and_a_third_of_each_outer_pass():
    task = Small()
    problem, rungs = task.sample(0), [2, 5, 13]
    assert problem.outer_cost == 1.0
    problem = replace(problem, outer_cost=6.0)
    reports = list(evaluate(problem, task.space, task.space.initial_point(), rungs))
    assert [r.gradient_evals for r in reports] == [2 + 2, 5 + 4, 13 + 6]
    assert [r.inner_steps for r in reports] == rungs
    assert [r.outer_step for r in reports] == [1, 2, 3]
    assert [r.complete for r in reports] == [False, False, True]
    assert not any(r.state is None for r in reports)
    assert reports[-1].schedule == [(13, task.space.initial_point())]


def test_evaluates_values_are_those_of_plain_runs():
    task = Small()
    problem, hparams = task.sample(0), task.space.initial()
    point = task.space.point(hparams)
    for report in evaluate(problem, task.space, point, [2, 5, 13]):
        assert report.outer_loss == plain_run(problem, hparams, report.inner_steps)[1]
        assert report.hparams == point


def test_evaluate_wants_the_spaces_own_names():
    task = Small()
    point = task.space.initial_point()
    del point["l2"]
    with pytest.raises(ValueError, match="hyperparameter 'l2' is missing"):
        next(evaluate(task.sample(0), task.space, point, [1]))


def test_evaluate_reports_a_diverged_run_as_it_is():
    task = Quadratic()
    point = {"lr": 1e200, "momentum": 0.5}
    reports = list(evaluate(task.sample(0), task.space, point, [1, 2, 20]))
    assert not any(math.isfinite(report.outer_loss) for report in reports[1:])
    assert reports[-1].complete


def test_the_loss_curve_begins_before_training_and_ends_with_the_run():
    task = Small()
    problem, space = task.sample(0), task.space
    first = space.point(space.initial())
    schedule = [(2, first), (1, first | {"l2": 0.1}), (3, first | {"momentum": 0.9})]
    curve = loss_curve(problem, space, schedule)
    assert len(curve) == 7
    assert curve[0] == outer_value(problem, problem.init(space.initial()), {})
    assert curve[2] == plain_run(problem, space.initial(), 2)[1]
    state = replay(problem, space, schedule)
    assert curve[6] == outer_value(problem, state, space.initial())
    assert curve[6] != plain_run(problem, space.initial(), 6)[1]


# ------------------------------------------------------------------------------ replay


@every_estimator
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_complete_report_replays_to_the_same_value(estimator, dtype):
    torch.set_default_dtype(dtype)
    task = Small()
    problem, budget = task.sample(2), 3.5 * run_cost(estimator, task)
    reports = descend(task, problem, estimator, seed=0, budget=budget)
    complete = [report for report in reports if report.complete]
    assert len(complete) >= 2
    for report in complete:
        assert sum(steps for steps, _ in report.schedule) == task.horizon
        assert report.schedule[-1][1] == report.hparams
        state = replay(problem, task.space, report.schedule)
        again = outer_value(problem, state, task.space.hparams(report.hparams))
        if isinstance(estimator, Forward):
            # torch takes other kernels, with other rounding, where tangents go along.
            rounding = 1e-9 if dtype == torch.float64 else 1e-3
            assert again == pytest.approx(report.outer_loss, rel=rounding)
        else:
            assert again == report.outer_loss
            for name, p in report.state.params.items():
                assert torch.equal(state.params[name], p)


def test_the_mean_of_a_schedule_weighs_steps_in_coordinates():
    space = Space(
        lr=Positive(1.0), mu=Unit([0.5, 0.5], shape=(2,)), c=Choice(["a", "b"])
    )
    first = {"lr": 1.0, "mu[0]": 0.5, "mu[1]": 0.9, "c": "b"}
    last = {"lr": 16.0, "mu[0]": 0.5, "mu[1]": 0.1, "c": "b"}
    mean = mean_hparams(space, [(3, first), (1, last)])
    assert float(mean["lr"]) == pytest.approx(2.0, rel=1e-14)
    middle = 1 / (1 + math.exp(-(0.75 - 0.25) * math.log(9)))
    assert mean["mu"].tolist() == pytest.approx([0.5, middle], rel=1e-13)
    assert mean["c"] == "b"


def test_the_mean_of_one_value_is_that_value_in_single_precision():
    torch.set_default_dtype(torch.float32)
    space = Space(lr=Positive(0.1), mu=Unit(0.5), w=Real(0.0))
    for i in range(1, 100):
        flat = {"lr": 0.013 * i, "mu": 0.01 * i, "w": 0.7 * i}
        own = space.hparams(flat)
        mean = mean_hparams(space, [(3, space.point(own)), (4, space.point(own))])
        assert all(torch.equal(mean[name], own[name]) for name in own)
        assert {value.dtype for value in mean.values()} == {torch.float32}
