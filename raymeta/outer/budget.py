"""The budget of a descent, in gradient evaluations, and what things cost."""

from typing import Any

from raymeta.outer.report import Report, Schedule
from raymeta.problem import BilevelProblem
from raymeta.types import State


class BudgetMeter:
    """Counts what a trial spends, in gradient evaluations.

    Args:
        budget: what it may spend.
    """

    def __init__(self, budget: float) -> None:
        self.budget = budget
        self.spent = 0.0
        self._reports = 0

    def covers(self, cost: float) -> bool:
        """Whether this much is left; forgives rounding errors of the sum."""
        return self.spent + cost <= self.budget * (1 + 1e-9)

    def charge(self, cost: float) -> None:
        """Spend."""
        self.spent += cost

    def report(
        self,
        inner_steps: int,
        outer_loss: float,
        hparams: dict[str, Any],
        result: tuple[State, Schedule] | None = None,
    ) -> Report:
        """The next report; `result` is what a complete run ended with."""
        self._reports += 1
        state, schedule = (None, None) if result is None else result
        return Report(
            outer_step=self._reports,
            inner_steps=inner_steps,
            gradient_evals=self.spent,
            outer_loss=outer_loss,
            complete=result is not None,
            hparams=hparams,
            state=state,
            schedule=schedule,
        )


def evaluation_cost(problem: BilevelProblem) -> float:
    """Charge for one outer loss without its gradient: a third of a full pass."""
    return problem.outer_cost / 3


def plain_cost(problem: BilevelProblem, horizon: int) -> float:
    """Charge for training without hypergradient, and the outer loss at its end."""
    return horizon + evaluation_cost(problem)
