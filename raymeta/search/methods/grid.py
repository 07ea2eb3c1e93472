"""Grid search."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from ray.tune import TuneConfig
from ray.tune.search import Searcher

from raymeta.outer.report import plain_cost
from raymeta.problem import BilevelProblem
from raymeta.search.domains import initial_point
from raymeta.search.methods.base import METRIC, MODE, BlackBox
from raymeta.search.units import UnitCube
from raymeta.space import Choice, Space
from raymeta.tasks.base import Task

#: Points of the smallest grid beyond which none is laid out.
MOST = 1_000_000


@dataclass(frozen=True)
class Grid(BlackBox):
    """Full runs at the largest full-factorial grid that the budget affords.

    A hyperparameter with n levels is tried in the middles (i + 1/2) / n of n equal
    parts of its range, in the coordinate that black-box search samples (log λ for
    `Positive`); a `Choice` at all of its options. Levels are added one at a time,
    where there are fewest, as long as the initial point and all of the grid fit. Its
    points are tried in random order; runs that are left go to the next larger grid.

    Refused where even two levels of each hyperparameter exceed the budget.

    Attributes:
        runs: full runs that the budget covers; by default the smallest grid is first.

    Source: as Tune's `grid_search`; what it is worth: Bergstra & Bengio 2012.
    """

    name: str = "grid"
    runs: float = 0.0

    def least_budget(self, task: Task, problem: BilevelProblem) -> float:
        """Gradient evaluations of the initial point and two levels of everything."""
        points = 1 + math.prod(map(float, _least_levels(task.space)))
        return points * plain_cost(problem, task.horizon)

    def sized(self, runs: float) -> "Grid":
        """The method for a budget of so many full runs."""
        return replace(self, runs=runs)

    def tune_config(self, task: Task, seed: int) -> TuneConfig:
        """The initial point, then grid after grid.

        Raises:
            ValueError: the smallest grid has more than a million points.
        """
        searcher = GridSearch(task.space, seed, self.runs)
        return TuneConfig(metric=METRIC, mode=MODE, search_alg=searcher)


class GridSearch(Searcher):
    """The initial point, then the points of grids, each larger than the one before."""

    def __init__(self, space: Space, seed: int, runs: float) -> None:
        super().__init__()
        least = math.prod(_least_levels(space))
        if least > MOST:
            raise ValueError(
                f"method 'grid' takes at most {MOST:,} points, but two levels of each "
                f"hyperparameter of this space are {least:.3g}: use 'sobol'"
            )
        self._points = _points(space, seed, runs)

    def set_search_properties(
        self, metric: str | None, mode: str | None, config: dict, **spec: Any
    ) -> bool:
        """The space is known."""
        return True

    def suggest(self, trial_id: str) -> Any:
        """The next point; a space of choices alone has a last one."""
        return next(self._points, Searcher.FINISHED)

    def on_trial_complete(
        self, trial_id: str, result: dict | None = None, error: bool = False
    ) -> None:
        """Nothing is learned from a result."""


def _least_levels(space: Space) -> list[int]:
    """Two of each number, and every option."""
    return [
        len(domain.options) if isinstance(domain, Choice) else 2
        for domain in space.flat_domains().values()
    ]


def _points(space: Space, seed: int, runs: float) -> Iterator[dict[str, Any]]:
    """The initial point and the points of all grids, each once."""
    cube, random = UnitCube(space), np.random.default_rng(seed)
    start = initial_point(space)
    yield start
    tried = {_rounded(cube.units(start).values())}
    for levels in _grids(space, runs):
        axes = [[(i + 0.5) / n for i in range(n)] for n in levels]
        for units in random.permutation(list(product(*axes))).tolist():
            if _rounded(units) not in tried:
                tried.add(_rounded(units))
                yield cube.point(dict(zip(cube.domains, units, strict=True)))


def _rounded(units: Any) -> tuple[float, ...]:
    return tuple(round(unit, 9) for unit in units)


def _grids(space: Space, runs: float) -> Iterator[list[int]]:
    """Levels of the largest grid that leaves one of the runs, and of larger ones."""
    domains = list(space.flat_domains().values())
    numbers = [i for i, domain in enumerate(domains) if not isinstance(domain, Choice)]
    levels = _least_levels(space)
    while True:
        larger = list(levels)
        if numbers:
            larger[min(numbers, key=levels.__getitem__)] += 1
        if not numbers or math.prod(larger) > runs - 1:
            yield levels
        if not numbers:
            return
        levels = larger
