"""TPE, and a descent from the best point that it has seen."""

from dataclasses import dataclass

from raymeta.search.methods.hybrid import HybridMethod
from raymeta.search.methods.tpe import Tpe


@dataclass(frozen=True)
class TpeDescent(HybridMethod):
    """TPE for half of the budget, then hypergradients from the best that it has seen.

    So options and regions are picked by values alone, and what is left is descended:
    see `HybridMethod`.

    Source: Bergstra et al. 2011 for the search; for the descent see `auto`. Their
    combination is raymeta's own.
    """

    name: str = "tpe_descent"

    @property
    def search(self) -> Tpe:
        """What searches."""
        return Tpe()
