"""Conformance suite of tasks."""

import math
import pickle
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from raymeta._tree import tree_leaves
from raymeta.hypergrad import Forward, Reverse, hypergradient
from raymeta.hypergrad.base import plain_cost
from raymeta.outer.descend import evaluate
from raymeta.outer.report import plain_run
from raymeta.tasks.base import Task, check_task
from raymeta.testing.precision import DoublePrecision
from raymeta.testing.truth import (
    central_differences,
    flops,
    largest_relative_error,
)
from raymeta.types import Hparams, Tensors

#: Steps of the runs whose derivatives are compared.
STEPS = 8
#: Directions in which the derivative by a large tensor is compared.
DIRECTIONS = 4


class TaskConformance(DoublePrecision):
    """What every task must satisfy.

        class TestMyTask(TaskConformance):
            @pytest.fixture
            def task(self):
                return MyTask()

    Fixtures:
        task: the task.
        short: the same with runs of a few steps; by default `dataclasses.replace` sets
            the horizon.
        differences: step of the central differences, and the relative error below which
            derivatives must agree with them.
    """

    @pytest.fixture
    def task(self) -> Task:
        raise NotImplementedError

    @pytest.fixture
    def short(self, task: Any) -> Task:
        return replace(task, horizon=STEPS)

    @pytest.fixture
    def differences(self) -> tuple[float, float]:
        return 1e-3, 1e-6

    def test_has_what_a_task_has(self, task: Task) -> None:
        check_task(task)

    def test_is_sent_to_workers_as_it_is(self, task: Task) -> None:
        assert pickle.loads(pickle.dumps(task)) == task

    def test_starts_at_the_centre_of_its_space(self, task: Task) -> None:
        centre, initial = task.space.centre(), task.space.initial()
        for key in task.space.continuous:
            torch.testing.assert_close(centre[key], initial[key], rtol=1e-6, atol=0)

    def test_a_seed_fixes_everything_and_another_changes_it(self, task: Task) -> None:
        point = task.space.initial_point()

        def values(seed: int) -> list[float]:
            reports = evaluate(task.sample(seed), task.space, point, [1, 3])
            return [report.outer_loss for report in reports]

        first = values(1)
        assert values(1) == first
        assert all(a != b for a, b in zip(first, values(2), strict=True))

    def test_every_hypergradient_is_true(
        self, short: Task, differences: tuple[float, float]
    ) -> None:
        problem, hparams = short.sample(0), short.space.initial()
        ways = directions(hparams)

        def value(shifts: Hparams) -> float:
            return plain_run(problem, shifted(hparams, ways, shifts), STEPS)[1]

        start = {key: torch.zeros(len(way)) for key, way in ways.items()}
        step, tolerance = differences
        # A difference at 0 takes a hundredth of its step.
        truth = central_differences(value, start, 100 * step)
        found = []
        for estimator in (Reverse(STEPS), Forward(STEPS)):
            grads = hypergradient(problem, hparams, estimator).grads
            found.append({key: way @ grads[key].flatten() for key, way in ways.items()})
            assert largest_relative_error(found[-1], truth) < tolerance
        assert largest_relative_error(*found) < 1e-9

    def test_the_default_budget_covers_twenty_runs(self, task: Task) -> None:
        assert task.budget >= 20 * plain_cost(task.sample(0), task.horizon)

    def test_the_outer_cost_is_counted(self, task: Task) -> None:
        problem, hparams = task.sample(0), task.space.initial()
        state, inner_loss = problem.init(hparams), problem.inner_loss
        inner = outer = 0
        if inner_loss is not None:
            inner = flops(lambda: inner_loss(state, hparams, problem.batch(0)))
            outer = flops(lambda: problem.outer_loss(state, hparams))
        cost = outer / inner if inner else 1.0
        assert problem.outer_cost == pytest.approx(cost, rel=1e-6)

    def test_training_at_the_start_lowers_the_outer_loss(self, task: Task) -> None:
        problem, hparams = task.sample(0), task.space.initial()
        before = float(problem.outer_loss(problem.init(hparams), hparams))
        (report,) = evaluate(
            problem, task.space, task.space.initial_point(), [task.horizon]
        )
        assert report.outer_loss < before

    def test_held_out_metrics_are_named_and_finite(self, task: Task) -> None:
        problem, hparams = task.sample(0), task.space.initial()
        if problem.metrics is None:
            pytest.skip("it has none")
        metrics = problem.metrics(problem.init(hparams), hparams)
        assert "test_loss" in metrics
        assert all(key.startswith("test_") for key in metrics)
        assert all(math.isfinite(float(value)) for value in metrics.values())

    def test_the_state_is_a_tree_of_tensors(self, task: Task) -> None:
        state = task.sample(0).init(task.space.initial())
        assert all(isinstance(leaf, Tensor) for leaf in tree_leaves(state))


def directions(hparams: Hparams) -> Tensors:
    """Directions in which λ is shifted, relative to its size, by name.

    All elements of a small tensor, random directions of a large one.
    """
    generator, ways = torch.Generator().manual_seed(0), {}
    for key, value in hparams.items():
        if isinstance(value, Tensor):
            count = value.numel()
            way = torch.eye(count)
            if count > 2 * DIRECTIONS:
                way = torch.randn(DIRECTIONS, count, generator=generator)
            ways[key] = way * value.flatten().abs().clamp(min=1e-2)
    return ways


def shifted(hparams: Hparams, ways: Tensors, shifts: Hparams) -> Hparams:
    """λ shifted along the directions."""
    return hparams | {
        key: hparams[key] + (shift @ ways[key]).view(hparams[key].shape)
        for key, shift in shifts.items()
    }
