"""Budgets, in gradient evaluations."""

from raymeta.outer.report import Report, Schedule
from raymeta.space import Point
from raymeta.types import State

#: Sums of thirds: a budget of exactly n runs holds n runs.
ROUNDING = 1e-9


class BudgetMeter:
    """Counts what is spent of a budget, in gradient evaluations.

    Args:
        budget: what may be spent.
        spent: what is spent already.

    Attributes:
        reports: how many were made.
    """

    def __init__(self, budget: float, spent: float = 0.0) -> None:
        self.budget, self.spent = budget, spent
        self.reports = 0

    def covers(self, cost: float) -> bool:
        """Whether this much is left, up to rounding errors of sums."""
        return self.spent + cost <= self.budget * (1 + ROUNDING)

    def runs(self, cost: float) -> int:
        """How many times this much is left."""
        return max(0, int((self.budget * (1 + ROUNDING) - self.spent) / cost))

    def charge(self, cost: float) -> None:
        """Spend."""
        self.spent += cost

    def report(
        self,
        inner_steps: int,
        outer_loss: float,
        hparams: Point,
        *,
        complete: bool = False,
        state: State | None = None,
        schedule: Schedule | None = None,
    ) -> Report:
        """The next report."""
        self.reports += 1
        return Report(
            outer_step=self.reports,
            inner_steps=inner_steps,
            gradient_evals=self.spent,
            outer_loss=outer_loss,
            complete=complete,
            hparams=hparams,
            state=state,
            schedule=schedule,
        )
