"""Bayesian optimization by the package of that name."""

from dataclasses import dataclass
from typing import ClassVar

from ray.tune import TuneConfig

from raymeta.search.methods.base import METRIC, MODE, SearchMethod
from raymeta.search.tune.clipped_loss import ClippedLossSearcher
from raymeta.search.tune.unit_cube import UnitCubeSearcher, first_units
from raymeta.tasks.base import Task


@dataclass(frozen=True)
class BayesOpt(SearchMethod):
    """Full runs at upper confidence bounds of a Gaussian process, by bayes_opt.

    In the unit cube of the space's sampled coordinates, where an option of a `Choice`
    is an interval. Losses above twice the initial point's count as that: see
    `ClippedLossSearcher`. Tune's wrapper fails with version 2 of the package.

    Source: Srinivas et al. 2010; Nogueira 2014 for the implementation.
    """

    name: str = "bayesopt"
    requires: ClassVar[tuple[str, ...]] = ("bayesian-optimization>=1.4,<2",)

    def tune_config(self, task: Task, seed: int) -> TuneConfig:
        """The initial point, nine random ones, then the model's."""
        from ray.tune.search.bayesopt import BayesOptSearch

        inner = BayesOptSearch(
            points_to_evaluate=[first_units(task.space, intervals=True)],
            random_state=seed,
            random_search_steps=10,
        )
        searcher = UnitCubeSearcher(task.space, inner, intervals=True)
        return TuneConfig(
            metric=METRIC, mode=MODE, search_alg=ClippedLossSearcher(searcher)
        )
