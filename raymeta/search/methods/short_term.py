"""Descent along short-term hypergradients."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from raymeta import loop
from raymeta.hypergrad import ShortTerm
from raymeta.problem import BilevelProblem
from raymeta.search.methods.base import HYPERGRADIENT
from raymeta.tasks.base import Task


@dataclass(frozen=True)
class ShortTermDescent:
    """Hyperparameters change a few steps ahead, while training goes on."""

    name: str = "short_term"
    family: ClassVar[str] = HYPERGRADIENT

    def reports(
        self, task: Task, problem: BilevelProblem, seed: int, budget: float
    ) -> Iterator[loop.Report]:
        """Descend from the space's initial point."""
        estimator = ShortTerm(steps=max(1, task.horizon // 20))
        return loop.descend(task, problem, estimator, seed=seed, budget=budget)
