"""Base classes of a comparison's methods: searches, and descents."""

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Self

from ray.tune import TuneConfig

from raymeta.hypergrad import Estimator
from raymeta.hypergrad.base import plain_cost
from raymeta.outer import descend
from raymeta.outer.auto import Auto
from raymeta.outer.evaluator import DIRECT, Evaluator
from raymeta.outer.report import Report
from raymeta.problem import BilevelProblem
from raymeta.results.schema import BLACK_BOX, HYPERGRADIENT
from raymeta.tasks.base import Task
from raymeta.types import State

#: What a trial reports, by the names that searchers and schedulers know.
METRIC, MODE, TIME_ATTR = "outer_loss", "min", "inner_steps"


class Method(ABC):
    """What searches and descents have in common.

    Attributes:
        name: the name that the frame and the command line say.
        requires: packages that it needs besides raymeta's own, as pip takes them.
        hyper_lr: a first hyper-step of its own; None where it is the descents' usual.
    """

    name: str
    requires: ClassVar[tuple[str, ...]] = ()
    hyper_lr: float | None = None

    @property
    @abstractmethod
    def family(self) -> str:
        """The string "black-box", "hypergradient" or "hybrid"."""

    @property
    def summary(self) -> str:
        """What it does, in one line: the first of its docstring."""
        return (inspect.getdoc(type(self)) or self.name).splitlines()[0]

    @abstractmethod
    def min_budget(self, task: Task, problem: BilevelProblem) -> float:
        """Gradient evaluations without which the method cannot begin.

        Args:
            task: what it is compared on.
            problem: a problem of the task, under any seed.

        Raises:
            ValueError: the method refuses the task.
        """

    def sure_budget(self, task: Task, problem: BilevelProblem) -> float:
        """The least budget for which what it finds is surely no worse than the start.

        The start is training at the space's initial values. Who gives less is warned.
        By default it is the least budget at all: a search begins with the start.
        """
        return self.min_budget(task, problem)

    def estimator_on(self, task: Task) -> Estimator | Auto | None:
        """What gives the hypergradients that it follows; None where it follows none."""
        return None


class SearchMethod(Method):
    """A search: Tune's searcher suggests hyperparameters, Tune's scheduler stops.

    By default each trial is a full run at constant hyperparameters, suggested after the
    one before has ended, or with as many in flight as the user accepts. A hybrid is a
    search of which a descent goes on from the best point: see `HybridMethod`.

    Attributes:
        pauses: whether the scheduler pauses trials, so that their states must be saved.
    """

    pauses: ClassVar[bool] = False

    def share(self, task: Task) -> float:
        """How much of the budget goes to what the searcher suggests: all of it."""
        return 1.0

    @property
    def family(self) -> str:
        """The string "black-box"."""
        return BLACK_BOX

    @abstractmethod
    def tune_config(self, task: Task, seed: int) -> TuneConfig:
        """What a `Tuner` would take to search the task's space.

        Its metric, mode, searcher, scheduler and `max_concurrent_trials` (as many as
        `ahead` and the comparison's `at_once` say by default) are used. The searcher
        gets the space, the metric and the mode as Tune would give them.

        Raises:
            ValueError: the task cannot be searched by this method.
        """

    def sized(self, runs: float) -> Self:
        """The method for a budget of so many full runs; most do not depend on it."""
        return self

    def min_budget(self, task: Task, problem: BilevelProblem) -> float:
        """Gradient evaluations of one full run with all its reports."""
        return math.fsum(self.charges(task, problem))

    def rungs(self, task: Task) -> tuple[int, ...]:
        """Inner steps after which a trial reports, increasing; the horizon is last.

        By default a full run has one outer loss, at its end.
        """
        return (task.horizon,)

    def charges(self, task: Task, problem: BilevelProblem) -> tuple[float, ...]:
        """Gradient evaluations up to the first rung, from there to the second, ….

        By default those of plain training, with an outer loss at each.
        """
        rungs = self.rungs(task)
        each = zip((0, *rungs), rungs, strict=False)
        return tuple(plain_cost(problem, end - start) for start, end in each)

    def batch_size(self, task: Task, runs: float) -> int:
        """How many trials are judged together.

        All of them are suggested before the first one runs, and when the last one is
        over, the next batch begins under a new scheduler. With 1, one scheduler sees
        all trials, and a trial is suggested whenever none waits to begin.

        Args:
            task: that they train on.
            runs: how many full runs the budget covers that is left.
        """
        return 1

    def ahead(self, task: Task, runs: float) -> float:
        """How many trials may be in flight without any result changing.

        By default one batch; ∞ where suggestions depend on no result. With more than
        one, what trials report is applied in the order in which they were asked for;
        the scheduler must choose trials in the order in which they may run.

        Args:
            task: that they train on.
            runs: see `batch_size`.
        """
        return self.batch_size(task, runs)

    def begin(
        self, task: Task, problem: BilevelProblem, config: Mapping[str, Any]
    ) -> State:
        """Where training starts, a pytree of tensors and numbers; s_0(λ) by default.

        Args:
            task: the task to train on.
            problem: the task's, at the configuration's choices.
            config: natural values by flat name, and what a scheduler has added.
        """
        hparams = task.space.hparams(config, device=problem.device)
        return problem.init(hparams)

    def train(
        self,
        task: Task,
        problem: BilevelProblem,
        config: Mapping[str, Any],
        start: tuple[int, State],
        rungs: tuple[int, ...],
    ) -> Iterator[tuple[Report, State]]:
        """Train; a report at each rung, and where training stands then.

        By default at constant λ.

        Args:
            task: the task to train on.
            problem: the task's, at the configuration's choices.
            config: see `begin`.
            start: training steps so far, and where training stands.
            rungs: some of the method's rungs in a row; a report is complete at the
                horizon.
        """
        for report in descend.evaluate(
            problem, task.space, config, rungs, start, task.horizon
        ):
            yield report, report.state


class DescentMethod(Method):
    """A descent, or another method that is one trial and reports what it finds."""

    @property
    def family(self) -> str:
        """The string "hypergradient"."""
        return HYPERGRADIENT

    @abstractmethod
    def reports(
        self,
        task: Task,
        problem: BilevelProblem,
        seed: int,
        budget: float,
        evaluator: Evaluator = DIRECT,
    ) -> Iterator[Report]:
        """What it finds, report by report, until it has spent its budget.

        Args:
            task: what to learn.
            problem: `task.sample(seed)`.
            seed: seeds every random draw of this descent.
            budget: gradient evaluations to spend.
            evaluator: what is evaluated through it is remembered, and a killed trial
                that asks for the same again, in the same order, gets it at once.
        """
