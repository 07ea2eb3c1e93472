"""Population based training."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from ray.tune import TuneConfig
from ray.tune.schedulers import TrialScheduler

from raymeta.search.methods.base import TIME_ATTR, SearchMethod
from raymeta.search.methods.random import random_search
from raymeta.search.methods.rung_schedules import even
from raymeta.search.tune.population import PBTByFactors
from raymeta.space import Space
from raymeta.tasks.base import Task


@dataclass(frozen=True)
class Pbt(SearchMethod):
    """A population whose poor members copy good ones, then perturb their λ.

    After each interval, all members having come as far, the worst quarter copies the
    training state of members of the best quarter at random, and goes on at their
    hyperparameters times 1.2 or 0.8, or at new ones. So a full run of a member has a
    learned schedule of hyperparameters, whose value is its score. A member that
    diverges leaves. When a population has ended, another one begins elsewhere, as large
    as the budget still allows.

    Factors act on λ for `Positive`; any other range is stretched over three decades.
    What leaves the bounds is put on them. The options of a `Choice` stay with the
    training state, which may have been made for them.

    Attributes:
        population: largest number of members.
        intervals: intervals of a run.
        quantile: the share that is copied, and that copies.

    Source: Jaderberg et al. 2017, Algorithm 1, as Tune's `PopulationBasedTraining` has
    it in synchronous mode, which does not depend on who comes first.
    """

    name: str = "pbt"
    population: int = 20
    intervals: int = 10
    quantile: float = 0.25
    pauses: ClassVar[bool] = True
    scheduler: ClassVar[Callable[..., TrialScheduler]] = PBTByFactors

    def tune_config(self, task: Task, seed: int) -> TuneConfig:
        """The initial point and random ones under `scheduler`, after Tune's.

        Raises:
            ValueError: no hyperparameter is continuous.
        """
        require_continuous(self.name, task.space)
        scheduler = self.scheduler(
            task.space,
            time_attr=TIME_ATTR,
            perturbation_interval=self.rungs(task)[0],
            quantile_fraction=self.quantile,
            log_config=False,
            synch=True,
        )
        return random_search(task, seed, scheduler)

    def rungs(self, task: Task) -> tuple[int, ...]:
        """The ends of the intervals."""
        return equal_intervals(task, self.intervals)

    def batch_size(self, task: Task, runs: float) -> int:
        """A population, of which every member may train to the end."""
        return max(1, min(self.population, int(runs)))


def equal_intervals(task: Task, count: int) -> tuple[int, ...]:
    """Multiples of one interval, of which about `count` make the horizon.

    Tune perturbs after an interval since the last time, so all have the same length;
    the last one alone may be shorter.
    """
    first = even(task, count)[0]
    return (*range(first, task.horizon, first), task.horizon)


def require_continuous(method: str, space: Space) -> None:
    """Raise ValueError where there is nothing to perturb."""
    if not space.continuous:
        raise ValueError(
            f"method {method!r} changes continuous hyperparameters during training, "
            "but the space has only choices: use another method"
        )
