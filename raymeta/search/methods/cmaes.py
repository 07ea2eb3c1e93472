"""Covariance matrix adaptation."""

from dataclasses import dataclass
from typing import ClassVar

from optuna.samplers import CmaEsSampler
from ray.tune import TuneConfig

from raymeta.search.methods.base import METRIC, MODE, SearchMethod
from raymeta.search.tune.optuna_searcher import OptunaSearcher
from raymeta.tasks.base import Task


@dataclass(frozen=True)
class CmaEs(SearchMethod):
    """Full runs at samples of a normal distribution that adapts, by Optuna's CMA-ES.

    After the initial point it starts at the centre of the space, a sixth of each range
    wide, in log λ for `Positive`. The options of a `Choice` are drawn at random.

    Source: Hansen & Ostermeier 2001.
    """

    name: str = "cmaes"
    requires: ClassVar[tuple[str, ...]] = ("cmaes>=0.10",)

    def tune_config(self, task: Task, seed: int) -> TuneConfig:
        """The initial point, then generations of samples."""
        sampler = CmaEsSampler(seed=seed, warn_independent_sampling=False)
        searcher = OptunaSearcher(task.space, sampler)
        return TuneConfig(metric=METRIC, mode=MODE, search_alg=searcher)
