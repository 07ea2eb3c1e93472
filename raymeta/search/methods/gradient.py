"""Hypergradient descent with any estimator of the engine."""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass

from raymeta.hypergrad import Estimator
from raymeta.outer import descend
from raymeta.outer.arguments import estimator_of
from raymeta.outer.auto import Auto
from raymeta.outer.evaluator import DIRECT, Evaluator
from raymeta.outer.report import Report
from raymeta.problem import BilevelProblem
from raymeta.search.methods.base import DescentMethod
from raymeta.tasks.base import Task


@dataclass(frozen=True)
class HypergradientDescent(DescentMethod):
    """Descends from the space's initial point.

    Attributes:
        name: name of the method.
        estimator: estimator of the hypergradient, by its name in
            `raymeta.hypergrad.registry`, or "auto".
        hyper_lr: see `raymeta.outer.descend.descend`.
    """

    name: str
    estimator: str
    hyper_lr: float | None = None

    @property
    def summary(self) -> str:
        """What it does, in one line: its estimator's claim, and when λ moves."""
        horizon = 100
        estimator = estimator_of(self.estimator, horizon)
        claim = inspect.cleandoc(type(estimator).__doc__ or "").splitlines()[0]
        if isinstance(estimator, Auto) or not estimator.continues:
            return claim
        online = estimator.steps < horizon
        when = "while training goes on" if online else "after each whole run"
        return f"{claim.removesuffix('.')}; λ moves {when}."

    def min_budget(self, task: Task, problem: BilevelProblem) -> float:
        """Gradient evaluations of one full training run.

        Raises:
            ValueError: the estimator does not fit the task.
        """
        estimator = self.estimator_on(task)
        descend.require_fit(task, problem, estimator)
        return descend.run_cost(task, problem, estimator)

    def sure_budget(self, task: Task, problem: BilevelProblem) -> float:
        """The same, with what leaves the outer loss at the start known."""
        return descend.sure_cost(task, problem, self.estimator_on(task))

    def estimator_on(self, task: Task) -> Estimator | Auto:
        """The estimator, of the task's horizon."""
        return estimator_of(self.estimator, task.horizon)

    def reports(
        self,
        task: Task,
        problem: BilevelProblem,
        seed: int,
        budget: float,
        evaluator: Evaluator = DIRECT,
    ) -> Iterator[Report]:
        """Reports of the descent."""
        return descend.descend(
            task,
            problem,
            self.estimator_on(task),
            seed=seed,
            budget=budget,
            hyper_lr=self.hyper_lr,
            evaluator=evaluator,
        )
