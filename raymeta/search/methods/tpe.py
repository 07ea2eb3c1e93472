"""Tree-structured Parzen estimators."""

from dataclasses import dataclass

from optuna.samplers import TPESampler
from ray.tune import TuneConfig
from ray.tune.search.optuna import OptunaSearch

from raymeta.search.domains import initial_point
from raymeta.search.methods.base import METRIC, MODE, BlackBox
from raymeta.tasks.base import Task


@dataclass(frozen=True)
class Tpe(BlackBox):
    """Full runs where the density of good hyperparameters is high, by Optuna's TPE.

    Source: Bergstra et al. 2011; Watanabe 2023 for what Optuna does.
    """

    name: str = "tpe"

    def tune_config(self, task: Task, seed: int) -> TuneConfig:
        """The initial point, nine random ones, then the model's."""
        searcher = OptunaSearch(
            sampler=TPESampler(seed=seed),
            points_to_evaluate=[initial_point(task.space)],
        )
        return TuneConfig(metric=METRIC, mode=MODE, search_alg=searcher)
