"""An evolution strategy by Nevergrad."""

from dataclasses import dataclass
from typing import ClassVar

from ray.tune import TuneConfig

from raymeta.search.methods.base import METRIC, MODE, SearchMethod
from raymeta.search.tune.isolated_rng import IsolatedGlobalRNG
from raymeta.search.tune.unit_cube import UnitCubeSearcher, first_units
from raymeta.tasks.base import Task


@dataclass(frozen=True)
class Nevergrad(SearchMethod):
    """Full runs at mutations of the best point so far, by Nevergrad's (1+1)-ES.

    The mutations get wider after a success and narrower otherwise, in the unit cube of
    the space's sampled coordinates, where an option of a `Choice` is an interval.
    Nevergrad's `NGOpt`, which picks an optimizer, may pick one that runs in a thread
    that never ends.

    Source: Rechenberg 1973; Bennet et al. 2021 for the implementation.
    """

    name: str = "nevergrad"
    requires: ClassVar[tuple[str, ...]] = ("nevergrad>=0.12",)

    def tune_config(self, task: Task, seed: int) -> TuneConfig:
        """The initial point, then its mutations."""
        # Its first import draws from the streams of the study.
        with IsolatedGlobalRNG(seed):
            import nevergrad
        from ray.tune.search.nevergrad import NevergradSearch

        inner = NevergradSearch(
            optimizer=nevergrad.optimizers.OnePlusOne,
            points_to_evaluate=[first_units(task.space, intervals=True)],
        )
        searcher = UnitCubeSearcher(task.space, inner, intervals=True)
        return TuneConfig(metric=METRIC, mode=MODE, search_alg=searcher)
