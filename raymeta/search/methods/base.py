"""What a method of a comparison is: one of two kinds."""

from collections.abc import Iterator
from typing import ClassVar, Protocol

from ray.tune import TuneConfig

from raymeta.loop import Report
from raymeta.problem import BilevelProblem
from raymeta.tasks.base import Task

BLACK_BOX, HYPERGRADIENT = "black-box", "hypergradient"

#: What a trial reports, by the names that searchers and schedulers know.
METRIC, MODE, TIME_ATTR = "outer_loss", "min", "inner_steps"


class BlackBoxMethod(Protocol):
    """A search that trains at hyperparameters of its choice.

    `BlackBox` has the usual answers to all but `name` and `tune_config`.
    """

    @property
    def name(self) -> str:
        """As the frame and the command line say it."""
        ...

    @property
    def family(self) -> str:
        """The string "black-box"."""
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


class HypergradientMethod(Protocol):
    """A descent: one trial that changes its hyperparameters itself."""

    @property
    def name(self) -> str:
        """As the frame and the command line say it."""
        ...

    @property
    def family(self) -> str:
        """The string "hypergradient"."""
        ...

    def least_budget(self, task: Task, problem: BilevelProblem) -> float:
        """Gradient evaluations of one full training run."""
        ...

    def reports(
        self, task: Task, problem: BilevelProblem, seed: int, budget: float
    ) -> Iterator[Report]:
        """The course of the descent, until it has spent its budget.

        Args:
            task: what to learn.
            problem: `task.sample(seed)`.
            seed: of everything random.
            budget: in gradient evaluations.
        """
        ...


Method = BlackBoxMethod | HypergradientMethod
