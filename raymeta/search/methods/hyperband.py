"""HyperBand."""

import math
from dataclasses import dataclass
from typing import ClassVar

from ray.tune import TuneConfig

from raymeta.search.methods.base import SearchMethod
from raymeta.search.methods.random import random_search
from raymeta.search.methods.rung_schedules import geometric
from raymeta.search.tune.hyperband import HyperBandInUnits
from raymeta.tasks.base import Task


@dataclass(frozen=True)
class HyperBand(SearchMethod):
    """Random search in brackets that weigh many short runs against few full ones.

    With R = η^k units of training to the horizon, bracket s = 0, …, k begins with
    n = ⌈(k+1)/(s+1) η^s⌉ trials of R η^-s units; after each round the best 1/η go on,
    for η times as long, and the others end. Trials that wait for their round are
    paused. One band of all brackets after the other, as long as the budget lasts.

    Attributes:
        reduction_factor: η.
        halvings: k, at most; 2 makes the shortest run T/9 and a band 17 trials for the
            cost of 8 full runs.

    Source: Li et al. 2018, Algorithm 1, as Tune's `HyperBandScheduler` has it.
    """

    name: str = "hyperband"
    reduction_factor: int = 3
    halvings: int = 2
    pauses: ClassVar[bool] = True

    def tune_config(self, task: Task, seed: int) -> TuneConfig:
        """Random search under Tune's scheduler."""
        scheduler = HyperBandInUnits(self.units(task), self.reduction_factor)
        return random_search(task, seed, scheduler)

    def rungs(self, task: Task) -> tuple[int, ...]:
        """T η^-k, …, T/η, T."""
        return tuple(self.units(task))

    def batch_size(self, task: Task, runs: float) -> int:
        """The trials of a band."""
        eta, brackets = self.reduction_factor, len(self.units(task))
        return sum(math.ceil(brackets / (s + 1) * eta**s) for s in range(brackets))

    def units(self, task: Task) -> dict[int, int]:
        """Units of training by training steps."""
        return geometric(task, self.reduction_factor, self.halvings)
