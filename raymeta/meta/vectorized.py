"""Inner loops of all tasks at once, by `torch.func.vmap`."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from raymeta._tree import tree_leaves, tree_map
from raymeta.compile.recurrence import Recurrence, chain
from raymeta.compile.trace import Untraceable
from raymeta.data.episodes import Episode
from raymeta.meta.learner import Learner, task_axes
from raymeta.meta.per_task import TaskByTask, judged
from raymeta.meta.weighted import is_weighted
from raymeta.problem import BilevelProblem
from raymeta.types import Batch, State, Tensors


class Vectorized:
    """Every step of all tasks is one function of tensors, traced once, by vmap.

    Args:
        learner: whose inner loops.
        compiled: run them as machine code.
        alone: what takes one task after the other, where vmap cannot.
    """

    def __init__(self, learner: Learner, compiled: bool, alone: TaskByTask) -> None:
        self._learner, self._compiled = learner, compiled
        # Its few operators are not worth a compilation.
        self._start = Recurrence(self._started, compiled=False)
        self._step = Recurrence(self._stepped, compiled=compiled)
        self._judge = Recurrence(self._judged, compiled=compiled)
        # What cannot be traced is found out once.
        self._traceable = self._vmappable = True
        self._one_by_one = alone

    def adapt(self, episodes: Episode, theta: Tensors, steps: int) -> State:
        """s_T of all tasks, along the first axis; in θ's graph where one is built."""
        legs = [self._start, *[self._step] * steps]
        return self._at_once(
            lambda: self._run(episodes, theta, legs)[1],
            lambda task: self._one_by_one.adapt(task, theta, steps),
            episodes,
        )

    def outcome(
        self, episodes: Episode, theta: Tensors, steps: int
    ) -> tuple[Tensor, Tensors]:
        """Outer losses and metrics after the inner steps, each of shape (N,)."""
        legs = [self._start, *[self._step] * steps, self._judge]
        return self._at_once(
            lambda: self._run(episodes, theta, legs),
            lambda tasks: self._one_by_one.outcome(tasks, theta, steps),
            episodes,
        )

    def _at_once(
        self,
        together: Callable[[], Any],
        apart: Callable[[Episode], Any],
        episodes: Episode,
    ) -> Any:
        """All tasks together; where vmap cannot, one by one, as is found out once."""
        if not self._vmappable:
            return apart(episodes)
        try:
            results = together()
        except (torch.OutOfMemoryError, Untraceable):
            raise
        except Exception as error:
            fault = str(error).partition("\n")[0]
        else:
            if any(map(is_weighted, episodes)):
                _require_reasons(results, apart, episodes)
            return results
        # Out of the handler: a mistake of one's own comes up as it is.
        results = apart(episodes)
        if self._compiled:
            raise ValueError(
                "compile=True takes the steps of all tasks by torch.func.vmap, but it "
                f"says: {fault.rstrip('.')}; leave compile out"
            )
        self._vmappable = False
        return results

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


def _require_reasons(
    results: Any, apart: Callable[[Episode], Any], episodes: Episode
) -> None:
    """Take the first task that is not finite by itself, where values are known.

    It may have diverged, or be refused: see `batch_loss`.

    Raises:
        ValueError: it is refused.
    """
    rows = [
        x.detach().flatten(1).isfinite().all(1) if x.ndim > 1 else x.detach().isfinite()
        for x in tree_leaves(results)
    ]
    lost = (~torch.stack(rows).all(0)).nonzero().flatten().tolist()
    if lost:
        with torch.no_grad():
            apart(tree_map(lambda x: x[lost[0] : lost[0] + 1], episodes))
