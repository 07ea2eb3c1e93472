"""Bayesian optimization with a Gaussian process."""

from dataclasses import dataclass

from optuna.samplers import GPSampler
from ray.tune import TuneConfig

from raymeta.search.methods.base import METRIC, MODE, SearchMethod
from raymeta.search.tune.clipped_loss import ClippedLossSearcher
from raymeta.search.tune.optuna_searcher import OptunaSearcher
from raymeta.tasks.base import Task


@dataclass(frozen=True)
class Gp(SearchMethod):
    """Full runs where a Gaussian process expects most improvement, by Optuna.

    A Matérn kernel with a length scale per hyperparameter, log λ for `Positive`. Losses
    above twice the initial point's count as that: see `ClippedLossSearcher`.

    Source: Snoek et al. 2012.
    """

    name: str = "gp"

    def tune_config(self, task: Task, seed: int) -> TuneConfig:
        """The initial point, nine random ones, then the model's."""
        searcher = OptunaSearcher(task.space, GPSampler(seed=seed, n_startup_trials=10))
        return TuneConfig(
            metric=METRIC, mode=MODE, search_alg=ClippedLossSearcher(searcher)
        )
