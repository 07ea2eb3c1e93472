"""Population based bandits."""

from dataclasses import dataclass

from ray.tune import TuneConfig

from raymeta.search.methods.base import METRIC, MODE, TIME_ATTR
from raymeta.search.methods.pbt import Pbt, require_continuous
from raymeta.search.methods.random import RandomSearch
from raymeta.search.tune.population import PB2InUnitCube
from raymeta.tasks.base import Task


@dataclass(frozen=True)
class Pb2(Pbt):
    """PBT whose copies go on where a Gaussian process expects most progress.

    The process predicts from time, loss and hyperparameters, in the unit cube of the
    space's sampled coordinates, how much the loss falls until the next time. It knows
    the population that trains, not those before. A copy costs the driver a second, so
    there are few of them.

    Source: Parker-Holder et al. 2020, Algorithm 1, as Tune's `PB2` has it in
    synchronous mode; small populations, as in the paper.
    """

    name: str = "pb2"
    population: int = 8
    intervals: int = 5

    def tune_config(self, task: Task, seed: int) -> TuneConfig:
        """The initial point and random ones under Tune's scheduler.

        Raises:
            ValueError: no hyperparameter is continuous.
        """
        require_continuous(self.name, task.space)
        scheduler = PB2InUnitCube(
            task.space,
            time_attr=TIME_ATTR,
            perturbation_interval=self.rungs(task)[0],
            quantile_fraction=self.quantile,
            log_config=False,
            synch=True,
        )
        return TuneConfig(
            metric=METRIC,
            mode=MODE,
            search_alg=RandomSearch(seed, first=task.space.initial_point()),
            scheduler=scheduler,
        )
