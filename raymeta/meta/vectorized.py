"""The inner loops of all tasks at once."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from raymeta.data.episodes import Episode
from raymeta.graphs import Untraceable
from raymeta.meta.learner import Learner, task_axes
from raymeta.problem import BilevelProblem
from raymeta.recurrence import Recurrence, chain
from raymeta.tree import detach
from raymeta.types import Batch, State, Tensors


def judged(
    problem: BilevelProblem, theta: Tensors, state: State
) -> tuple[Tensor, Tensors]:
    """The outer loss of one task, and its metrics without a graph."""
    metrics = {} if problem.metrics is None else problem.metrics(state, theta)
    return problem.outer_loss(state, theta), detach(metrics)


class Vectorized:
    """Every step of all tasks is one function of tensors, traced once, by vmap.

    Args:
        learner: whose inner loops.
        compiled: run them as machine code.
    """

    def __init__(self, learner: Learner, compiled: bool) -> None:
        self._learner, self._compiled = learner, compiled
        # Its few operators are not worth a compilation.
        self._start = Recurrence(self._started, compiled=False)
        self._step = Recurrence(self._stepped, compiled=compiled)
        self._judge = Recurrence(self._judged, compiled=compiled)
        # What cannot be traced is found out once.
        self._traceable = True

    def adapt(self, episodes: Episode, theta: Tensors, steps: int) -> State:
        """s_T of all tasks, along the first axis; in θ's graph where one is built."""
        return self._run(episodes, theta, [self._start, *[self._step] * steps])[1]

    def outcome(
        self, episodes: Episode, theta: Tensors, steps: int
    ) -> tuple[Tensor, Tensors]:
        """Outer losses and metrics after the inner steps, each of shape (N,)."""
        legs = [self._start, *[self._step] * steps, self._judge]
        return self._run(episodes, theta, legs)

    def _run(self, episodes: Episode, theta: Tensors, legs: list[Recurrence]) -> Any:
        if self._traceable:
            try:
                return chain((), theta, [(leg, episodes) for leg in legs])
            except Untraceable:
                if self._compiled:
                    raise
                self._traceable = False
        at: Any = ()
        for leg in legs:
            at = leg.function(at, theta, episodes)
        return at

    def _started(self, at: tuple[()], theta: Tensors, episodes: Episode) -> Any:
        def init(problem: BilevelProblem, theta: Tensors) -> State:
            return problem.init(theta)

        device = next(iter(theta.values())).device
        t = torch.zeros((), dtype=torch.int64, device=device)
        return t, self._each(init, theta, episodes)

    def _stepped(
        self, at: tuple[Tensor, State], theta: Tensors, episodes: Episode
    ) -> Any:
        t, states = at

        def step(problem: BilevelProblem, theta: Tensors, state: State) -> State:
            return problem.step(state, theta, Batch(t, ()))

        return t + 1, self._each(step, theta, episodes, states)

    def _judged(
        self, at: tuple[Tensor, State], theta: Tensors, episodes: Episode
    ) -> Any:
        return self._each(judged, theta, episodes, at[1])

    def _each(
        self,
        function: Callable[..., Any],
        theta: Tensors,
        episodes: Episode,
        *states: State,
    ) -> Any:
        """A function of a task's problem, θ and the task's state, for all tasks."""

        def one(task: Episode, theta: Tensors, *state: State) -> Any:
            return function(self._learner.problem(task), theta, *state)

        axes = (0, task_axes(self._learner, theta), *[0 for _ in states])
        return vmap(one, axes, randomness="different")(episodes, theta, *states)
