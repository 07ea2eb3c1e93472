"""Preflight of a meta-module's first forward, by one task taken by itself."""

import torch

from raymeta._tree import tree_map
from raymeta.autograd.double_backward import marked_backward_passes
from raymeta.data.episodes import Episode
from raymeta.hypergrad.preflight import require_pullback
from raymeta.meta.learner import Learner
from raymeta.meta.per_task import TaskByTask
from raymeta.meta.weighted import is_weighted
from raymeta.types import Tensors

REMEDY = "use first_order(learner), fomaml or reptile, or write the operator out"


class Preflight:
    """One task, eagerly, before all of them: mistakes come up here, under their names.

    Within vmap and traces values are unknown, and where one has no derivative torch
    may take it for 0.

    Args:
        learner: whose tasks.
        engine: what takes the steps of a task by itself.
    """

    def __init__(self, learner: Learner, engine: TaskByTask) -> None:
        self._learner, self._engine = learner, engine
        self._seen: set[tuple[bool, bool]] = set()

    def __call__(
        self, episodes: Episode, theta: Tensors, steps: int, differentiated: bool
    ) -> None:
        """Look at the task with the most padding, once for each kind of a call.

        Raises:
            ValueError: its loss cannot be differentiated as the learner has to; and
                whatever is raised by its steps.
        """
        weighted = any(map(is_weighted, episodes))
        if (differentiated, weighted) in self._seen:
            return
        i = 0
        if weighted:
            sums = [x.weight.sum(1) for x in episodes if is_weighted(x)]
            i = int(torch.stack(sums).amin(0).argmin())
        task = tree_map(lambda x: x[i : i + 1], episodes)
        if differentiated and self._learner.estimator is None:
            self._differentiate(task, theta, steps)
        else:
            with torch.no_grad():
                self._engine.outcome(task, theta, steps)
        self._seen.add((differentiated, weighted))

    def _differentiate(self, task: Episode, theta: Tensors, steps: int) -> None:
        leaves = {k: x.detach().requires_grad_() for k, x in theta.items()}
        with marked_backward_passes():
            losses, _ = self._engine.outcome(task, leaves, steps)
        require_pullback(losses, [*leaves.values()], REMEDY)
