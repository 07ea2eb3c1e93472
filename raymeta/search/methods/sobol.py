"""Quasi-random search."""

import math
from dataclasses import dataclass
from typing import Any

from ray.tune import TuneConfig
from ray.tune.search import Searcher

from raymeta.search.methods.base import METRIC, MODE, SearchMethod
from raymeta.search.tune.unit_cube import UnitCube
from raymeta.space import Space
from raymeta.tasks.base import Task


@dataclass(frozen=True)
class Sobol(SearchMethod):
    """Full runs at the points of a scrambled Sobol' sequence.

    The sequence fills the unit cube of the space's sampled coordinates; an option of a
    `Choice` is an interval. Its guarantees hold for 2^m points and get weak with many
    dimensions: with n points in d ≫ log2 n of them, every single hyperparameter, and
    most pairs, are covered evenly, and the cube as a whole no better than at random.

    Source: Sobol' 1967; Owen 1998 for the scrambling; Bergstra & Bengio 2012 for the
    use.
    """

    name: str = "sobol"

    def tune_config(self, task: Task, seed: int) -> TuneConfig:
        """The initial point, then the sequence.

        Raises:
            ValueError: more hyperparameters than there are direction numbers.
        """
        searcher = SobolSearch(task.space, seed)
        return TuneConfig(metric=METRIC, mode=MODE, search_alg=searcher)

    def ahead(self, task: Task, runs: float) -> float:
        """All: no suggestion depends on a result."""
        return math.inf


class SobolSearch(Searcher):
    """The initial point, then a scrambled Sobol' sequence in the unit cube."""

    def __init__(self, space: Space, seed: int) -> None:
        super().__init__()
        # Which takes half a second.
        from scipy.stats import qmc

        self._cube = UnitCube(space)
        count, most = len(self._cube.domains), qmc.Sobol.MAXDIM
        if count > most:
            raise ValueError(
                f"method 'sobol' takes at most {most} hyperparameters, but got "
                f"{count}: use 'random'"
            )
        self._sequence = qmc.Sobol(count, scramble=True, rng=seed)
        self._first: dict[str, Any] | None = space.initial_point()

    def set_search_properties(
        self, metric: str | None, mode: str | None, config: dict, **spec: Any
    ) -> bool:
        """The space is known."""
        return True

    def suggest(self, trial_id: str) -> dict[str, Any]:
        """The initial point once, then the next of the sequence."""
        first, self._first = self._first, None
        if first is not None:
            return first
        (units,) = self._sequence.random(1)
        return self._cube.point(dict(zip(self._cube.domains, units, strict=True)))

    def on_trial_complete(
        self, trial_id: str, result: dict | None = None, error: bool = False
    ) -> None:
        """Nothing is learned from a result."""
