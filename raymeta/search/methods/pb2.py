"""Population based bandits."""

from dataclasses import dataclass
from typing import Any

from ray.tune.schedulers import TrialScheduler

from raymeta.search.methods.pbt import Pbt
from raymeta.space import Space


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

    @staticmethod
    def scheduler(space: Space, **options: Any) -> TrialScheduler:
        """Tune's scheduler for a space, which is imported where it is used."""
        from raymeta.search.tune.bandits import PB2InUnitCube

        return PB2InUnitCube(space, **options)
