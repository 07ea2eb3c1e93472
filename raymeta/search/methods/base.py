"""What a method of a comparison is: one of two kinds."""

from collections.abc import Iterator
from typing import Protocol

from ray.tune import TuneConfig

from raymeta.loop import Report
from raymeta.problem import BilevelProblem
from raymeta.tasks.base import Task

BLACK_BOX, HYPERGRADIENT = "black-box", "hypergradient"

#: What a trial reports, by the names that searchers and schedulers know.
METRIC, MODE, TIME_ATTR = "outer_loss", "min", "inner_steps"


class BlackBoxMethod(Protocol):
    """A search that runs full trainings at hyperparameters of its choice."""

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
        metric and the mode as Tune would give them. The scheduler may stop trials, not
        pause them.
        """
        ...

    def rungs(self, task: Task) -> tuple[int, ...]:
        """Inner steps after which a trial reports, increasing; the horizon is last."""
        ...


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
