"""What every task must satisfy; a new one inherits this by being registered."""

import math

import pytest
import torch

from raymeta import tasks
from raymeta.hypergrad import Forward, Reverse, hypergradient
from raymeta.loop import evaluate
from raymeta.outer.report import plain_cost
from raymeta.tree import tree_leaves
from tests.truth import flops, largest_relative_error, run_differences

pytestmark = pytest.mark.usefixtures("float64")
every_task = pytest.mark.parametrize("name", tasks.names())
STEPS = 8


def test_unknown_names_are_answered_with_a_guess():
    with pytest.raises(ValueError, match="unknown task 'digit': did you mean 'digits"):
        tasks.get("digit")


@every_task
def test_says_its_own_name(name):
    assert tasks.get(name).name == name


@every_task
def test_starts_at_the_centre_of_its_space(name):
    space = tasks.get(name).space
    for key, value in space.centre().items():
        torch.testing.assert_close(value, space.initial()[key], rtol=1e-6, atol=0)


@every_task
def test_a_seed_fixes_everything_and_another_changes_it(name):
    task = tasks.get(name)
    hparams = task.space.initial()

    def values(seed: int) -> list[float]:
        problem = task.sample(seed)
        reports = evaluate(problem, task.space, hparams, [1, 3])
        return [report.outer_loss for report in reports]

    assert values(1) == values(1)
    assert all(a != b for a, b in zip(values(1), values(2), strict=True))


@every_task
def test_every_hypergradient_is_true(name):
    task = tasks.get(name)
    problem, hparams = task.sample(0), task.space.initial()
    truth = run_differences(problem, hparams, STEPS, 1e-4)
    for estimator in (Reverse(STEPS), Forward(STEPS)):
        result = hypergradient(problem, hparams, estimator)
        assert largest_relative_error(result.grads, truth) < 1e-6


@every_task
def test_the_default_budget_covers_twenty_runs(name):
    task = tasks.get(name)
    assert task.budget >= 20 * plain_cost(task.sample(0), task.horizon)


@every_task
def test_the_outer_cost_is_counted(name):
    task = tasks.get(name)
    problem, hparams = task.sample(0), task.space.initial()
    state = problem.init(hparams)
    inner = flops(lambda: problem.inner_loss(state, hparams, problem.batch(0)))
    outer = flops(lambda: problem.outer_loss(state, hparams))
    if inner:
        assert outer / inner == pytest.approx(problem.outer_cost, rel=1e-6)
    else:
        assert problem.outer_cost == 1.0


@every_task
def test_training_at_the_start_lowers_the_outer_loss(name):
    task = tasks.get(name)
    problem, hparams = task.sample(0), task.space.initial()
    before = float(problem.outer_loss(problem.init(hparams), hparams))
    (report,) = evaluate(problem, task.space, hparams, [task.horizon])
    assert report.outer_loss < before


@every_task
def test_held_out_metrics_are_named_and_finite(name):
    task = tasks.get(name)
    problem, hparams = task.sample(0), task.space.initial()
    metrics = problem.metrics(problem.init(hparams), hparams)
    assert "test_loss" in metrics
    assert all(key.startswith("test_") for key in metrics)
    assert all(math.isfinite(float(value)) for value in metrics.values())


@every_task
def test_the_state_is_a_tree_of_tensors(name):
    task = tasks.get(name)
    state = task.sample(0).init(task.space.initial())
    assert all(isinstance(leaf, torch.Tensor) for leaf in tree_leaves(state))
