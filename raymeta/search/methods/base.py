"""What a method of a comparison is: a search, a descent, or a hybrid of both."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Protocol

from ray.tune import TuneConfig

from raymeta.outer import descend
from raymeta.outer.coordinates import device_of, place
from raymeta.outer.evaluator import Evaluator
from raymeta.outer.report import Report
from raymeta.problem import BilevelProblem
from raymeta.tasks.base import Task
from raymeta.types import State

BLACK_BOX, HYPERGRADIENT, HYBRID = "black-box", "hypergradient", "hybrid"

#: What a trial reports, by the names that searchers and schedulers know.
METRIC, MODE, TIME_ATTR = "outer_loss", "min", "inner_steps"


class BlackBoxMethod(Protocol):
    """A search that trains at hyperparameters of its choice.

    `BlackBox` has the usual answers to all but `name` and `tune_config`. A hybrid is
    such a search whose trials change their hyperparameters themselves: it trains in its
    own way, and has

    - `charges(task, problem)`: gradient evaluations up to the first rung, from there
      to the second, …;
    - `least_budget(task, problem)`: their sum; raises ValueError where the method does
      not fit the task.

    Before a hybrid's first trial there is a plain run at the space's initial values, if
    the budget covers it and a trial: what is found is never worse than it.

    Any search may have `least_budget`, where one run is too little for it, and
    `sized(runs)`: the method for a budget of so many full runs, where what it suggests
    depends on them.
    """

    @property
    def name(self) -> str:
        """As the frame and the command line say it."""
        ...

    @property
    def family(self) -> str:
        """The string "black-box", or "hybrid"."""
        ...

    def tune_config(self, task: Task, seed: int) -> TuneConfig:
        """What a `Tuner` would take to search the task's space.

        Its metric, mode, searcher, scheduler and `max_concurrent_trials` (1 by default,
        which makes a search reproducible) are used. The searcher gets the space, the
        metric and the mode as Tune would give them.

        Raises:
            ValueError: the task cannot be searched by this method.
        """
        ...

    def rungs(self, task: Task) -> tuple[int, ...]:
        """Inner steps after which a trial reports, increasing; the horizon is last."""
        ...

    @property
    def pauses(self) -> bool:
        """Whether the scheduler pauses trials, so that their states must be saved."""
        ...

    def cohort(self, task: Task, runs: float) -> int:
        """How many trials are judged together.

        All of them are suggested before the first one runs, and when the last one is
        over, the next cohort begins under a new scheduler. With 1, one scheduler sees
        all trials, and a trial is suggested whenever none waits to begin.

        Args:
            task: that they train on.
            runs: how many full runs the budget covers that is left.
        """
        ...

    def begin(
        self, task: Task, problem: BilevelProblem, config: Mapping[str, Any]
    ) -> State:
        """Where training starts, a pytree of tensors and numbers.

        Args:
            task: to train on.
            problem: the task's, at the configuration's choices.
            config: natural values by flat name, and what a scheduler has added.
        """
        ...

    def train(
        self,
        task: Task,
        problem: BilevelProblem,
        config: Mapping[str, Any],
        start: tuple[int, State],
        rungs: tuple[int, ...],
    ) -> Iterator[tuple[Report, State]]:
        """Train; a report at each rung, and where training stands then.

        Args:
            task: to train on.
            problem: the task's, at the configuration's choices.
            config: see `begin`.
            start: training steps so far, and where training stands.
            rungs: some of the method's rungs in a row; a report is complete at the
                horizon.
        """
        ...

    @property
    def requires(self) -> tuple[str, ...]:
        """Packages that it needs besides raymeta's own, as pip takes them."""
        ...


class BlackBox:
    """The usual black-box method: full runs, each suggested after the one before."""

    family: ClassVar[str] = BLACK_BOX
    pauses: ClassVar[bool] = False
    requires: ClassVar[tuple[str, ...]] = ()

    def rungs(self, task: Task) -> tuple[int, ...]:
        """A full run has one outer loss, at its end."""
        return (task.horizon,)

    def cohort(self, task: Task, runs: float) -> int:
        """Every trial on its own."""
        return 1

    def begin(
        self, task: Task, problem: BilevelProblem, config: Mapping[str, Any]
    ) -> State:
        """s_0(λ)."""
        hparams = place(task.space.unflatten(config), device_of(problem))
        return problem.init(hparams)

    def train(
        self,
        task: Task,
        problem: BilevelProblem,
        config: Mapping[str, Any],
        start: tuple[int, State],
        rungs: tuple[int, ...],
    ) -> Iterator[tuple[Report, State]]:
        """At constant λ."""
        hparams = task.space.unflatten(config)
        for report in descend.evaluate(problem, task.space, hparams, rungs, start):
            complete = report.inner_steps == task.horizon
            yield report._replace(complete=complete), report.state


class HypergradientMethod(Protocol):
    """A descent, or another method that is one trial and reports what it finds.

    It may have `sure_budget(task, problem)`, as a hybrid may: the least budget for
    which what it finds is surely not worse than training at the space's initial values.
    Who gives less is warned.
    """

    @property
    def name(self) -> str:
        """As the frame and the command line say it."""
        ...

    @property
    def family(self) -> str:
        """The string "hypergradient", or another where it is no descent."""
        ...

    def least_budget(self, task: Task, problem: BilevelProblem) -> float:
        """Gradient evaluations of one full training run."""
        ...

    def reports(
        self,
        task: Task,
        problem: BilevelProblem,
        seed: int,
        budget: float,
        evaluator: Evaluator,
    ) -> Iterator[Report]:
        """The course of the descent, until it has spent its budget.

        Args:
            task: what to learn.
            problem: `task.sample(seed)`.
            seed: of everything random.
            budget: in gradient evaluations.
            evaluator: what is evaluated through these is remembered, and a killed
                trial that asks for the same again, in the same order, gets it at once.
        """
        ...


Method = BlackBoxMethod | HypergradientMethod
