"""Descent along forward-mode hypergradients."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from raymeta import loop
from raymeta.hypergrad import Forward
from raymeta.problem import BilevelProblem
from raymeta.search.methods.base import HYPERGRADIENT
from raymeta.tasks.base import Task


@dataclass(frozen=True)
class ForwardDescent:
    """Hyperparameters change along with the derivative of training by them."""

    name: str = "forward"
    family: ClassVar[str] = HYPERGRADIENT

    def reports(
        self, task: Task, problem: BilevelProblem, seed: int, budget: float
    ) -> Iterator[loop.Report]:
        """Descend from the space's initial point."""
        estimator = Forward(steps=max(1, task.horizon // 10))
        return loop.descend(task, problem, estimator, seed=seed, budget=budget)
