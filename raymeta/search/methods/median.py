"""Median stopping."""

from dataclasses import dataclass

from ray.tune import TuneConfig
from ray.tune.schedulers import MedianStoppingRule

from raymeta.search.methods.base import TIME_ATTR, SearchMethod
from raymeta.search.methods.random import random_search
from raymeta.search.methods.rung_schedules import even
from raymeta.tasks.base import Task


@dataclass(frozen=True)
class Median(SearchMethod):
    """Random search that stops a run which is worse than the median run so far.

    At a rung, a run ends when its best outer loss is above the median of the means
    that the other runs had up to there.

    Attributes:
        parts: rungs, at equal parts of the horizon.
        grace: parts before the first judgement.
        least: runs that a median is taken of.

    Source: Golovin et al. 2017, Section 3.2.2, as Tune's `MedianStoppingRule` has it.
    """

    name: str = "median"
    parts: int = 5
    grace: int = 1
    least: int = 3

    def tune_config(self, task: Task, seed: int) -> TuneConfig:
        """Random search under Tune's scheduler."""
        scheduler = MedianStoppingRule(
            time_attr=TIME_ATTR,
            grace_period=self.rungs(task)[: self.grace][-1],
            min_samples_required=self.least,
        )
        return random_search(task, seed, scheduler)

    def rungs(self, task: Task) -> tuple[int, ...]:
        """Equal parts of the horizon."""
        return even(task, self.parts)
