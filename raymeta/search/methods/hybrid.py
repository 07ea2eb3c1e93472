"""Base class of the hybrids: searches whose trials descend while they train."""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import torch

from raymeta.hypergrad import ShortTerm
from raymeta.hypergrad.base import differentiable, plain_cost
from raymeta.hypergrad.registry import VAL_SHARE
from raymeta.outer import descend
from raymeta.outer.conditions import MOST
from raymeta.outer.coordinates import Coordinates
from raymeta.outer.online_run import OnlineRun, OnlineState
from raymeta.outer.report import Report
from raymeta.problem import BilevelProblem
from raymeta.results.schema import HYBRID
from raymeta.search.methods.base import SearchMethod
from raymeta.space import Space
from raymeta.tasks.base import Task

#: Where a scheduler leaves by how much a trial's hyper learning rate is multiplied.
HYPER_LR_FACTOR = "hyper_lr_factor"


class HybridMethod(SearchMethod):
    """A search of starting values and choices, whose trials learn the rest themselves.

    A trial is one training run. What the searcher suggests is where its continuous
    hyperparameters start; from there they descend by hypergradients while training goes
    on (`OnlineRun`). Its choices stay as suggested. Before the first trial, the
    comparison trains at the space's initial values without descending; after half of
    the budget, runs begin where the best one ended (`WarmRestarts`), and where a better
    one ends is trained at as a constant.

    Attributes:
        hyper_steps: estimates and hyper-steps of a run, at most: `ShortTerm` looks
            ahead T / hyper_steps training steps.
    """

    hyper_steps: int

    @property
    def family(self) -> str:
        """The string "hybrid"."""
        return HYBRID

    def min_budget(self, task: Task, problem: BilevelProblem) -> float:
        """Gradient evaluations of one full training run.

        Raises:
            ValueError: the space has only choices; the estimator does not fit the task.
        """
        differentiable(task.space.initial())
        descend.require_fit(task, problem, look_ahead(task, self.hyper_steps))
        return sum(self.charges(task, problem))

    def sure_budget(self, task: Task, problem: BilevelProblem) -> float:
        """The same, with the plain run at the start."""
        run = sum(self.charges(task, problem))
        return run + plain_cost(problem, task.horizon)

    def charges(self, task: Task, problem: BilevelProblem) -> tuple[float, ...]:
        """Gradient evaluations up to the first rung, from there to the second, …."""
        space, rungs = task.space, self.rungs(task)
        # What an estimate costs may depend on what is used: the most that it can be.
        spaces = [space]
        if space.when:
            start = space.initial()
            some = islice(space.options(), MOST)
            spaces = [space.at({**start, **options}) for options in some]
        each = [
            self._run(task, problem, one).charges(rungs)
            for one in spaces
            if one.continuous
        ]
        return tuple(map(max, zip(*each, strict=True)))

    def begin(
        self, task: Task, problem: BilevelProblem, config: Mapping[str, Any]
    ) -> OnlineState:
        """Before the first step, at the suggested hyperparameters."""
        flat = {name: config[name] for name in task.space.used(config)}
        hparams = task.space.hparams(flat, dtype=torch.float64)
        run = self._at(task, problem, config)
        return run.begin(run.coordinates.at(hparams))

    def train(
        self,
        task: Task,
        problem: BilevelProblem,
        config: Mapping[str, Any],
        start: tuple[int, OnlineState],
        rungs: tuple[int, ...],
    ) -> Iterator[tuple[Report, OnlineState]]:
        """Train and descend; a report at each rung, and where the run stands then."""
        factor = config.get(HYPER_LR_FACTOR, 1.0)
        return self._at(task, problem, config).reports(start[1], rungs, factor)

    def _at(
        self, task: Task, problem: BilevelProblem, config: Mapping[str, Any]
    ) -> OnlineRun:
        return self._run(task, problem, task.space.at(config))

    def _run(self, task: Task, problem: BilevelProblem, space: Space) -> OnlineRun:
        return online_run(task, problem, space, self.hyper_steps)


def look_ahead(task: Task, hyper_steps: int) -> ShortTerm:
    """The estimator of a run with so many hyper-steps, or a few more."""
    steps = max(1, task.horizon // hyper_steps)
    return ShortTerm(steps, val_share=VAL_SHARE)


def online_run(
    task: Task, problem: BilevelProblem, space: Space, hyper_steps: int
) -> OnlineRun:
    """A run of a task that descends while it trains, in a space with fixed choices."""
    return OnlineRun(
        problem=problem,
        coordinates=Coordinates(space, problem.device),
        estimator=look_ahead(task, hyper_steps),
        horizon=task.horizon,
    )
