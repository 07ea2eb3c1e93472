"""Asynchronous successive halving."""

import math
from dataclasses import dataclass

from ray.tune import TuneConfig
from ray.tune.schedulers import AsyncHyperBandScheduler

from raymeta.search.methods.base import TIME_ATTR, SearchMethod
from raymeta.search.methods.random import random_search
from raymeta.tasks.base import Task


@dataclass(frozen=True)
class Asha(SearchMethod):
    """Random search that stops a run which is not among the best of its rung.

    Rungs lie at g, g·η, g·η², … training steps; of the runs that reached a rung, the
    best 1/η go on. The grace period g leaves two rungs below the horizon with η = 3.

    Attributes:
        reduction_factor: η.

    Source: Li et al. 2020, Algorithm 2, in Tune's stopping variant.
    """

    name: str = "asha"
    reduction_factor: int = 3

    def tune_config(self, task: Task, seed: int) -> TuneConfig:
        """Random search under Tune's scheduler."""
        return random_search(task, seed, self.scheduler(task))

    def scheduler(self, task: Task) -> AsyncHyperBandScheduler:
        """Tune's scheduler, which stops what is not among the best of its rung."""
        return AsyncHyperBandScheduler(
            time_attr=TIME_ATTR,
            max_t=task.horizon,
            grace_period=self._grace(task),
            reduction_factor=self.reduction_factor,
        )

    def rungs(self, task: Task) -> tuple[int, ...]:
        """g·η^k below the horizon, and the horizon."""
        rungs, step = [], self._grace(task)
        while step < task.horizon:
            rungs.append(step)
            step *= self.reduction_factor
        return (*rungs, task.horizon)

    def _grace(self, task: Task) -> int:
        return math.ceil(task.horizon / self.reduction_factor**2)
