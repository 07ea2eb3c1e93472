"""Inner loops of one task after the other."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from raymeta._tree import detach, tree_leaves, tree_map
from raymeta.data.episodes import Episode
from raymeta.hypergrad.base import with_steps
from raymeta.hypergrad.higher_engine import unroll_with_higher
from raymeta.meta.learner import Learner, task_axes
from raymeta.problem import BilevelProblem
from raymeta.types import State, Tensors


def judged(
    problem: BilevelProblem, theta: Tensors, state: State
) -> tuple[Tensor, Tensors]:
    """The outer loss of one task, and its metrics without a graph."""
    metrics = {} if problem.metrics is None else problem.metrics(state, theta)
    return problem.outer_loss(state, theta), detach(metrics)


class TaskByTask:
    """Inner loops by eager steps.

    Args:
        learner: whose inner loops.
    """

    def __init__(self, learner: Learner) -> None:
        self._learner = learner

    def adapt(self, episodes: Episode, theta: Tensors, steps: int) -> State:
        """s_T of all tasks, along the first axis; in θ's graph where one is built."""
        theta = theta if torch.is_grad_enabled() else detach(theta)

        def one(theta: Tensors, task: Episode) -> State:
            problem = self._learner.problem(task)
            return self._unrolled(problem, theta, problem.init(theta), steps)

        return self._each(one, theta, episodes)

    def _unrolled(
        self, problem: BilevelProblem, theta: Tensors, state: State, steps: int
    ) -> State:
        for t in range(steps):
            state = problem.step(state, theta, problem.batch(t))
        return state

    def outcome(
        self, episodes: Episode, theta: Tensors, steps: int
    ) -> tuple[Tensor, Tensors]:
        """Outer losses and metrics after the inner steps, each of shape (N,)."""

        def one(theta: Tensors, task: Episode, state: State) -> tuple[Tensor, Tensors]:
            return judged(self._learner.problem(task), theta, state)

        return self._each(one, theta, episodes, self.adapt(episodes, theta, steps))

    def _each(self, function: Callable[..., Any], theta: Tensors, *trees: Any) -> Any:
        axes = task_axes(self._learner, theta)

        def one(i: int) -> Any:
            own = {k: x if axes[k] is None else x[i] for k, x in theta.items()}
            return function(own, *tree_map(lambda x: x[i], trees))

        return stacked(one, len(tree_leaves(trees)[0]))


class WithHigher(TaskByTask):
    """Inner loops by `higher`; see `unroll_with_higher`."""

    def _unrolled(
        self, problem: BilevelProblem, theta: Tensors, state: State, steps: int
    ) -> State:
        track = torch.is_grad_enabled()
        with torch.enable_grad():
            state = unroll_with_higher(problem, theta, state, steps, track)
        return state if track else detach(state)


def estimated(
    learner: Learner, episodes: Episode, theta: Tensors, steps: int
) -> tuple[Tensor, Tensors, Tensors]:
    """What the learner's estimator says of each task.

    Returns:
        Outer losses, shape (N,); metrics likewise, the "residual" of a linear system
        among them where it solves one; derivatives in θ, with a leading dimension N.
    """
    assert learner.estimator is not None
    estimator, theta = with_steps(learner.estimator, steps), detach(theta)

    def one(i: int) -> tuple[Tensor, Tensors, Tensors]:
        problem = learner.problem(tree_map(lambda x: x[i], episodes))
        start = estimator.init(problem, theta)
        result, rollout = estimator.estimate(problem, theta, start)
        with torch.no_grad():
            _, metrics = judged(problem, theta, rollout.state)
        if result.residual is not None:
            metrics["residual"] = torch.tensor(result.residual)
        return result.outer_loss, metrics, result.grads

    return stacked(one, len(tree_leaves(episodes)[0]))


def stacked(function: Callable[[int], Any], count: int) -> Any:
    """A function's results for 0 … count - 1, along a new first axis."""
    rows = [function(i) for i in range(count)]
    return tree_map(lambda *leaves: torch.stack(leaves), *rows)
