"""Tree-structured Parzen estimators."""

from dataclasses import dataclass
from typing import ClassVar

from optuna.samplers import TPESampler
from ray.tune import TuneConfig
from ray.tune.search.optuna import OptunaSearch

from raymeta.search.domains import initial_point
from raymeta.search.methods.base import BLACK_BOX, METRIC, MODE
from raymeta.tasks.base import Task


@dataclass(frozen=True)
class Tpe:
    """Full runs where the density of good hyperparameters is high, by Optuna's TPE.

    Source: Bergstra et al. 2011; Watanabe 2023 for what Optuna does.
    """

    name: str = "tpe"
    family: ClassVar[str] = BLACK_BOX

    def tune_config(self, task: Task, seed: int) -> TuneConfig:
        """The initial point, nine random ones, then the model's."""
        searcher = OptunaSearch(
            sampler=TPESampler(seed=seed),
            points_to_evaluate=[initial_point(task.space)],
        )
        return TuneConfig(metric=METRIC, mode=MODE, search_alg=searcher)

    def rungs(self, task: Task) -> tuple[int, ...]:
        """A full run has one outer loss, at its end."""
        return (task.horizon,)
