"""Many runs as one vectorized program."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from raymeta.hypergrad import ShortTerm
from raymeta.hypergrad.base import plain_cost
from raymeta.hypergrad.registry import look_ahead
from raymeta.outer import descend
from raymeta.outer.budget import BudgetMeter
from raymeta.outer.coordinates import Coordinates
from raymeta.outer.evaluator import DIRECT, Evaluator
from raymeta.outer.online import OnlineDescent
from raymeta.outer.online_run import OnlineRun
from raymeta.outer.report import Report
from raymeta.outer.vectorized import RunOutcome, at_constants, descending
from raymeta.problem import BilevelProblem
from raymeta.results.schema import BLACK_BOX, HYBRID
from raymeta.search.methods.base import METRIC, MODE, DescentMethod
from raymeta.search.methods.random import RandomSearch
from raymeta.search.tune.space import to_tune
from raymeta.tasks.base import Task, sample_problem

#: How much of the budget goes to random points, where runs descend.
SHARE = 0.5


@dataclass(frozen=True)
class Restarts(DescentMethod):
    """Random points, several at a time: their runs are one vectorized program.

    The first point is the initial one; where runs descend, a plain run there comes
    before them all, if the budget covers it besides one of them. The runs of a batch
    have the same choices, so networks of one shape; each is charged. With hyper-steps
    each run descends from its point while training goes on (`OnlineRun`); without, it
    is a full run at constant hyperparameters, as in random search. What
    `torch.func.vmap` cannot take runs one by one, with a line in the worker's log.

    Runs that descend are from random points for half of the budget. The rest goes on
    from the mean λ of the best of them, one run after another, as `OnlineDescent` does:
    first as a constant, then from what the last run learned.

    Attributes:
        name: name of the method.
        hyper_steps: estimates and hyper-steps of a run, or a few more: `ShortTerm`
            looks ahead T / hyper_steps training steps; 0 for none.
        size: largest number of runs of a batch; the last one is as large as the budget
            allows.

    Source: Bergstra & Bengio 2012 for random search; Franceschi et al. 2017 (RTHO) for
    the descent.
    """

    name: str
    hyper_steps: int
    size: int = 8

    @property
    def summary(self) -> str:
        """What it does, in one line."""
        does = (
            "they descend while training goes on" if self.hyper_steps else "full runs"
        )
        return f"Random points, several at a time, as one vectorized program: {does}."

    @property
    def family(self) -> str:
        """The string "hybrid" where runs descend, else "black-box"."""
        return HYBRID if self.hyper_steps else BLACK_BOX

    def min_budget(self, task: Task, problem: BilevelProblem) -> float:
        """Gradient evaluations of one full training run.

        Raises:
            ValueError: the space has no bounds to draw between; the estimator does not
                fit the task.
        """
        to_tune(task.space)
        if (estimator := self.estimator_on(task)) is not None:
            descend.require_fit(task, problem, estimator)
        return self._cost(task, problem, task.space.initial_point())

    def sure_budget(self, task: Task, problem: BilevelProblem) -> float:
        """The same, with a plain run at the start where runs descend from it."""
        start = plain_cost(problem, task.horizon) if self.hyper_steps else 0.0
        return self._cost(task, problem, task.space.initial_point()) + start

    def estimator_on(self, task: Task) -> ShortTerm | None:
        """What its runs descend by, where they do."""
        return look_ahead(task.horizon, self.hyper_steps) if self.hyper_steps else None

    def reports(
        self,
        task: Task,
        problem: BilevelProblem,
        seed: int,
        budget: float,
        evaluator: Evaluator = DIRECT,
    ) -> Iterator[Report]:
        """A complete report for every run, batch by batch."""
        searcher = RandomSearch(seed, first=task.space.initial_point())
        searcher.set_search_properties(METRIC, MODE, to_tune(task.space))
        meter = BudgetMeter(budget)
        if self.hyper_steps and meter.covers(self.sure_budget(task, problem)):
            yield self._at_start(task, problem, meter, evaluator)
        best: tuple[BilevelProblem, RunOutcome] | None = None
        while True:
            first = searcher.suggest("")
            at = sample_problem(task, seed, first)
            cost = self._cost(task, at, first)
            count = min(self.size, meter.runs(cost))
            if self.hyper_steps:
                # One after another while none has ended with a finite value.
                least = int(best is None)
                count = min(count, max(self._elsewhere(meter).runs(cost), least))
            if not count:
                break
            points = [first, *(searcher.suggest("") for _ in range(count - 1))]
            choices = {name: first[name] for name in task.space.choices}
            points = [point | choices for point in points]
            for ran in self._run(task, at, points, evaluator):
                meter.charge(cost)
                if math.isfinite(ran.value) and (
                    best is None or ran.value < best[1].value
                ):
                    best = at, ran
                schedule = [(task.horizon, ran.point)]
                yield meter.report(
                    task.horizon,
                    ran.value,
                    ran.point,
                    complete=True,
                    state=ran.state,
                    schedule=schedule,
                )

        if self.hyper_steps and best is not None:
            yield from self._go_on(task, *best, seed, meter, evaluator)

    def _elsewhere(self, meter: BudgetMeter) -> BudgetMeter:
        """What is left for random points: the other half is for where the best led."""
        return BudgetMeter(SHARE * meter.budget, meter.spent)

    def _go_on(
        self,
        task: Task,
        problem: BilevelProblem,
        best: RunOutcome,
        seed: int,
        meter: BudgetMeter,
        evaluator: Evaluator,
    ) -> Iterator[Report]:
        """Runs one after another, from the mean λ of the best one on."""
        space = task.space.at(best.mean)
        start = space.hparams(best.mean, dtype=torch.float64)
        descent = OnlineDescent(
            problem=problem,
            coordinates=Coordinates(space, problem.device, start),
            estimator=look_ahead(task.horizon, self.hyper_steps),
            horizon=task.horizon,
            budget=meter.budget - meter.spent,
            seed=seed,
            hyper_lr=None,
            evaluator=evaluator,
        )
        before = meter.spent
        for report in descent.reports():
            meter.charge(before + report.gradient_evals - meter.spent)
            yield meter.report(
                report.inner_steps,
                report.outer_loss,
                report.hparams,
                complete=report.complete,
                state=report.state,
                schedule=report.schedule,
            )

    def _at_start(
        self,
        task: Task,
        problem: BilevelProblem,
        meter: BudgetMeter,
        evaluator: Evaluator,
    ) -> Report:
        """A plain run at the initial point."""
        flat = task.space.initial_point()
        hparams = task.space.hparams(flat, device=problem.device)
        state, value = evaluator.plain_run(problem, hparams, task.horizon)
        meter.charge(plain_cost(problem, task.horizon))
        return meter.report(
            task.horizon,
            value,
            flat,
            complete=True,
            state=state,
            schedule=[(task.horizon, flat)],
        )

    def _run(
        self,
        task: Task,
        problem: BilevelProblem,
        points: list[dict[str, Any]],
        evaluator: Evaluator,
    ) -> Iterator[RunOutcome]:
        if self.hyper_steps:
            starts = [
                task.space.hparams(point, dtype=torch.float64) for point in points
            ]
            descent = self._descent(task, problem, points[0])
            return descending(replace(descent, evaluator=evaluator), starts)
        device = problem.device
        runs = [task.space.hparams(point, device=device) for point in points]
        return at_constants(problem, task.space, runs, task.horizon, evaluator)

    def _cost(
        self, task: Task, problem: BilevelProblem, point: dict[str, Any]
    ) -> float:
        if not self.hyper_steps:
            return plain_cost(problem, task.horizon)
        descent = self._descent(task, problem, point)
        return descent.charge(0, task.horizon)

    def _descent(
        self, task: Task, problem: BilevelProblem, point: dict[str, Any]
    ) -> OnlineRun:
        return OnlineRun(
            problem=problem,
            coordinates=Coordinates(task.space.at(point), problem.device),
            estimator=look_ahead(task.horizon, self.hyper_steps),
            horizon=task.horizon,
        )
