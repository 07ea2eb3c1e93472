"""Descent along hypergradients of the whole run."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from raymeta import loop
from raymeta.hypergrad import Reverse
from raymeta.problem import BilevelProblem
from raymeta.search.methods.base import HYPERGRADIENT
from raymeta.tasks.base import Task


@dataclass(frozen=True)
class LongTermDescent:
    """One reverse-mode hypergradient per full training run."""

    name: str = "long_term"
    family: ClassVar[str] = HYPERGRADIENT

    def reports(
        self, task: Task, problem: BilevelProblem, seed: int, budget: float
    ) -> Iterator[loop.Report]:
        """Descend from the space's initial point."""
        estimator = Reverse(steps=task.horizon)
        return loop.descend(task, problem, estimator, seed=seed, budget=budget)
