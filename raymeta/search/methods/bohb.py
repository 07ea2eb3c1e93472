"""HyperBand with a model."""

from dataclasses import dataclass
from typing import ClassVar

from ray.tune import TuneConfig

from raymeta.search.methods.base import METRIC, MODE
from raymeta.search.methods.hyperband import HyperBand
from raymeta.search.tune.hyperband import BOHBInUnits
from raymeta.search.tune.unit_cube import UnitCubeSearcher, first_units
from raymeta.tasks.base import Task


@dataclass(frozen=True)
class Bohb(HyperBand):
    """HyperBand that begins trials where the density of good ones is high.

    The densities are of the longest runs of which there are enough; a third of the
    trials is random. The bracket of the most trials comes first.

    Source: Falkner et al. 2018, as Tune's `TuneBOHB` and `HyperBandForBOHB` have it,
    with the results of trials that the scheduler ends, which Tune withholds.
    """

    name: str = "bohb"
    requires: ClassVar[tuple[str, ...]] = (
        "hpbandster>=0.7.4",
        "ConfigSpace>=1.2",
        "Pyro4",
        "statsmodels",
    )

    def tune_config(self, task: Task, seed: int) -> TuneConfig:
        """The initial point, then the model's under Tune's scheduler."""
        from raymeta.search.tune.bohb import LearningBOHB

        first = first_units(task.space, intervals=False)
        inner = LearningBOHB(points_to_evaluate=[first], seed=seed)
        return TuneConfig(
            metric=METRIC,
            mode=MODE,
            search_alg=UnitCubeSearcher(task.space, inner, intervals=False),
            scheduler=BOHBInUnits(self.units(task), self.reduction_factor),
        )

    def batch_size(self, task: Task, runs: float) -> int:
        """Every trial on its own: a later one shall know more."""
        return 1
