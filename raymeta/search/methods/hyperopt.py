"""Tree-structured Parzen estimators by their first implementation."""

from dataclasses import dataclass
from typing import ClassVar

from ray.tune import TuneConfig

from raymeta.search.methods.base import METRIC, MODE, SearchMethod
from raymeta.search.tune.unit_cube import UnitCubeSearcher, first_units
from raymeta.tasks.base import Task


@dataclass(frozen=True)
class HyperOpt(SearchMethod):
    """Full runs where the density of good hyperparameters is high, by HyperOpt's TPE.

    Source: Bergstra et al. 2011; Bergstra et al. 2013 for the implementation.
    """

    name: str = "hyperopt"
    requires: ClassVar[tuple[str, ...]] = ("hyperopt>=0.2.7",)

    def tune_config(self, task: Task, seed: int) -> TuneConfig:
        """The initial point, nine random ones, then the model's."""
        from ray.tune.search.hyperopt import HyperOptSearch

        inner = HyperOptSearch(
            points_to_evaluate=[first_units(task.space, intervals=False)],
            n_initial_points=10,
            random_state_seed=seed,
        )
        searcher = UnitCubeSearcher(task.space, inner, intervals=False)
        return TuneConfig(metric=METRIC, mode=MODE, search_alg=searcher)
