"""HyperBand."""

from dataclasses import dataclass
from typing import Any, ClassVar

from ray.tune import TuneConfig
from ray.tune.schedulers import HyperBandScheduler

from raymeta.search.methods.base import METRIC, MODE, SearchMethod
from raymeta.search.methods.random import RandomSearch
from raymeta.search.methods.rung_schedules import UNITS, geometric, in_units
from raymeta.search.tune.space import initial_point
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
        return TuneConfig(
            metric=METRIC,
            mode=MODE,
            search_alg=RandomSearch(seed, first=initial_point(task.space)),
            scheduler=_InTrainingUnits(self.units(task), self.reduction_factor),
        )

    def rungs(self, task: Task) -> tuple[int, ...]:
        """T η^-k, …, T/η, T."""
        return tuple(self.units(task))

    def batch_size(self, task: Task, runs: float) -> int:
        """The trials of a band."""
        scheduler = _InTrainingUnits(self.units(task), self.reduction_factor)
        return sum(scheduler._get_n0(s) for s in range(scheduler._s_max_1))

    def units(self, task: Task) -> dict[int, int]:
        """Units of training by training steps."""
        return geometric(task, self.reduction_factor, self.halvings)


class _InTrainingUnits(HyperBandScheduler):
    """Tune's scheduler, which counts in units of training."""

    def __init__(self, units: dict[int, int], factor: int) -> None:
        super().__init__(
            time_attr=UNITS, max_t=max(units.values()), reduction_factor=factor
        )
        self._units = units

    def on_trial_result(
        self, tune_controller: Any, trial: Any, result: dict[str, Any]
    ) -> str:
        """Tune's decision."""
        in_units(self._units, result)
        return super().on_trial_result(tune_controller, trial, result)
