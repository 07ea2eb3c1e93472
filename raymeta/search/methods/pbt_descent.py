"""Population based training, and a descent from where its best run ended."""

from dataclasses import dataclass
from typing import ClassVar

from raymeta.search.methods.hybrid import HybridMethod
from raymeta.search.methods.pbt import Pbt


@dataclass(frozen=True)
class PbtDescent(HybridMethod):
    """A population for half of the budget, then hypergradients from where it led.

    After a plain run at the start, one population of `Pbt`. λ where its best run ended
    is trained at as a constant, and the descent begins there, or at the start where
    that is better: see `HybridMethod`.

    Attributes:
        population: largest number of members.
        intervals: intervals of a run.
        quantile: the share that is copied, and that copies.

    Source: Jaderberg et al. 2017 for the population; for the descent see `auto`. Their
    combination is raymeta's own.
    """

    name: str = "pbt_descent"
    population: int = 20
    intervals: int = 10
    quantile: float = 0.25
    pauses: ClassVar[bool] = True

    @property
    def search(self) -> Pbt:
        """What searches."""
        return Pbt(
            population=self.population,
            intervals=self.intervals,
            quantile=self.quantile,
        )
