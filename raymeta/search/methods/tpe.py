"""Tree-structured Parzen estimators."""

from dataclasses import dataclass

from optuna.samplers import TPESampler
from ray.tune import TuneConfig

from raymeta.search.methods.base import METRIC, MODE, SearchMethod
from raymeta.search.tune.optuna_searcher import OptunaSearcher
from raymeta.tasks.base import Task


@dataclass(frozen=True)
class Tpe(SearchMethod):
    """Full runs where the density of good hyperparameters is high, by Optuna's TPE.

    Where options say which hyperparameters are used, those that are used together are
    modelled together, by Optuna's group decomposition. What is in flight counts as poor
    (a constant lie), so several at once look at different places.

    Source: Bergstra et al. 2011; Watanabe 2023 for what Optuna does.
    """

    name: str = "tpe"

    def tune_config(self, task: Task, seed: int) -> TuneConfig:
        """The initial point, nine random ones, then the model's."""
        whole = None if task.space.when else TPESampler(seed=seed, constant_liar=True)
        searcher = OptunaSearcher(task.space, whole, seed)
        return TuneConfig(metric=METRIC, mode=MODE, search_alg=searcher)
