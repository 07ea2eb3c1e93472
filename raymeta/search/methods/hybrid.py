"""Base class of the hybrids: a descent goes on from the best point of a search."""

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

from ray.tune import TuneConfig

from raymeta.hypergrad import ShortTerm
from raymeta.hypergrad.base import differentiable
from raymeta.hypergrad.registry import look_ahead
from raymeta.outer import descend
from raymeta.outer.auto import FEW, Auto, Known
from raymeta.outer.budget import BudgetMeter
from raymeta.outer.evaluator import Evaluator
from raymeta.outer.mixed_coordinates import MixedCoordinates
from raymeta.outer.report import Report
from raymeta.problem import BilevelProblem
from raymeta.results.schema import HYBRID
from raymeta.search.methods.base import SearchMethod
from raymeta.tasks.base import Task

#: How much of the budget goes to the search, and how much of the rest to whole runs:
#: with few hyperparameters (as `Auto` has it), and with many, of which a search of some
#: tens of runs tells little.
SEARCH, WHOLE_RUNS = (1 / 2, 1 / 6), (1 / 2, 3 / 4)
#: With many hyperparameters, the descent begins at the start unless the search has
#: found something lower by this share of E there: random points among many are rough.
LITTLE = 0.1
#: Hyper-steps of these, or a few more.
HYPER_STEPS = 20


class HybridMethod(SearchMethod):
    """A search for part of the budget; then descents from the best that it has seen.

    The first is that of `auto`, over whole runs: it knows all points that the search
    has trained at from beginning to end, so it looks at no design of its own. What
    changes along a run is trained at as a constant first, where the best run ended. The
    second goes on from there while training goes on (`OnlineDescent`).

    The search has half of the budget, each descent a quarter; with more than 20
    hyperparameters, a sixth, five eighths, and the rest. With so many the first descent
    begins at the start, as if nothing were known, unless the search has found something
    lower by a tenth.
    """

    @property
    @abstractmethod
    def search(self) -> SearchMethod:
        """What searches."""

    @property
    def family(self) -> str:
        """The string "hybrid"."""
        return HYBRID

    def share(self, task: Task) -> float:
        """How much of the budget goes to the search."""
        return SEARCH[_are_many(task)]

    @property
    def looks_at_start(self) -> bool:
        """Whether a plain run at the start comes before a search that changes λ.

        One that can afford no more than one member does not change it.
        """
        return self.search.pauses

    def min_budget(self, task: Task, problem: BilevelProblem) -> float:
        """Gradient evaluations of one full training run.

        Raises:
            ValueError: the space has only choices; it cannot be searched; it has many
                hyperparameters, and the problem refuses hypergradients.
        """
        differentiable(task.space.initial())
        self.descent_cost(task, problem)
        return self.search.min_budget(task, problem)

    def tune_config(self, task: Task, seed: int) -> TuneConfig:
        """The search's."""
        return self.search.tune_config(task, seed)

    def rungs(self, task: Task) -> tuple[int, ...]:
        """The search's."""
        return self.search.rungs(task)

    def batch_size(self, task: Task, runs: float) -> int:
        """The search's."""
        return self.search.batch_size(task, runs)

    def ahead(self, task: Task, runs: float) -> float:
        """The search's."""
        return self.search.ahead(task, runs)

    def descent_cost(self, task: Task, problem: BilevelProblem) -> float:
        """The least budget that the descent can do something with.

        Raises:
            ValueError: it cannot descend there.
        """
        return descend.run_cost(task, problem, Auto())

    def estimator_on(self, task: Task) -> Auto:
        """Its first descent's."""
        return Auto()

    def go_on(
        self,
        task: Task,
        problem: BilevelProblem,
        seed: int,
        budget: float,
        evaluator: Evaluator,
        known: Sequence[Known],
    ) -> Iterator[Report]:
        """The descent's reports, within what is left of the budget.

        Args:
            task: what is trained.
            problem: the task's, at the initial options.
            seed: seeds every random draw.
            budget: gradient evaluations.
            evaluator: computes what is evaluated, or remembers it.
            known: see `Auto.descent`.
        """
        meter, seen = BudgetMeter(budget), list(known)
        many = _are_many(task)
        begin = [] if many and _gain(task, seen) < LITTLE else seen
        settings: dict[str, Any] = {"seed": seed, "evaluator": evaluator}
        within, whole = look_ahead(task.horizon, HYPER_STEPS), WHOLE_RUNS[many]
        if not _fits(task, problem, within, (1 - whole) * budget):
            whole = 1.0
        for estimator, share, at in ((Auto(), whole, begin), (within, 1.0, seen)):
            left = share * budget - meter.spent
            if not _fits(task, problem, estimator, left):
                continue
            reports = descend.descend(
                task, problem, estimator, budget=left, known=at, **settings
            )
            before, count = meter.spent, meter.reports
            for report in reports:
                meter.charge(before + report.gradient_evals - meter.spent)
                meter.reports = count + report.outer_step
                if report.complete and len(report.schedule or []) == 1:
                    seen.append((report.hparams, _finite(report.outer_loss)))
                if estimator is not within:  # what it returns is gone on from
                    report = report._replace(returned=False, offset=math.nan)
                yield report._replace(
                    gradient_evals=meter.spent, outer_step=meter.reports
                )


def _fits(
    task: Task, problem: BilevelProblem, estimator: Auto | ShortTerm, budget: float
) -> bool:
    """Whether an estimator is not refused, and the budget covers one of its runs."""
    try:
        descend.require_fit(task, problem, estimator)
    except ValueError:
        return False
    cost = descend.run_cost(task, problem, estimator)
    return BudgetMeter(budget).covers(cost)


def _gain(task: Task, known: Sequence[Known]) -> float:
    """By which share E at the best of the points is below that at the start."""
    initial = task.space.parse(task.space.initial_point())
    start = next((value for point, value in known if point == initial), math.inf)
    best = min(value for _, value in known)
    return (start - best) / abs(start) if start < math.inf and start else math.inf


def _are_many(task: Task) -> bool:
    return MixedCoordinates(task.space).dimensions > FEW


def _finite(value: float) -> float:
    return value if math.isfinite(value) else math.inf
