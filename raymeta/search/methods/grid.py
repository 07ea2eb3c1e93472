"""Grid search."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from ray.tune import TuneConfig
from ray.tune.search import Searcher

from raymeta.hypergrad.base import plain_cost
from raymeta.problem import BilevelProblem
from raymeta.search.methods.base import METRIC, MODE, SearchMethod
from raymeta.search.tune.unit_cube import UnitCube
from raymeta.space import Choice, Space
from raymeta.tasks.base import Task

#: Points of the smallest grid beyond which none is laid out.
MOST = 1_000_000


@dataclass(frozen=True)
class Grid(SearchMethod):
    """Full runs at the largest full-factorial grid that the budget affords.

    A hyperparameter with n levels is tried in the middles (i + 1/2) / n of n equal
    parts of its range, in the coordinate that black-box search samples (log λ for
    `Positive`); a `Choice` at all of its options, each with what it uses. Levels are
    added one at a time, where there are fewest, as long as the initial point and all of
    the grid fit. Its points are tried in random order; runs that are left go to the
    next larger grid.

    Refused where even two levels of each hyperparameter exceed the budget.

    Attributes:
        runs: full runs that the budget covers; by default the smallest grid is first.

    Source: as Tune's `grid_search`; what it is worth: Bergstra & Bengio 2012.
    """

    name: str = "grid"
    runs: float = 0.0

    def min_budget(self, task: Task, problem: BilevelProblem) -> float:
        """Gradient evaluations of the initial point and two levels of everything."""
        points = 1 + _size(task.space, _least_levels(task.space))
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

    def ahead(self, task: Task, runs: float) -> float:
        """All: no suggestion depends on a result."""
        return math.inf


class GridSearch(Searcher):
    """The initial point, then the points of grids, each larger than the one before."""

    def __init__(self, space: Space, seed: int, runs: float) -> None:
        super().__init__()
        least = _size(space, _least_levels(space))
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


#: Levels by flat name: of a choice, all of its options.
Levels = dict[str, int]


def _least_levels(space: Space) -> Levels:
    """Two of each number, and every option."""
    return {
        name: len(domain.options) if isinstance(domain, Choice) else 2
        for name, domain in space.flat_domains().items()
    }


def _size(space: Space, levels: Levels) -> float:
    """Points of a grid, astronomically many as a float."""
    if not space.when:
        return math.prod(map(float, levels.values()))
    return sum(math.prod(map(float, grid)) for grid in _parts(space, levels))


def _parts(space: Space, levels: Levels) -> Iterator[list[int]]:
    """Levels of what the options use, for each combination of options."""
    for options in space.options():
        used = space.used(options)
        yield [levels[n] for n, d in used.items() if not isinstance(d, Choice)]


def _units(space: Space, levels: Levels) -> list[dict[str, float]]:
    """The points of a grid, by flat name of what is used, each on its side [0, 1]."""
    axes = {name: [(i + 0.5) / n for i in range(n)] for name, n in levels.items()}
    if not space.when:
        return [
            dict(zip(axes, point, strict=True)) for point in product(*axes.values())
        ]
    grids = []
    for options in space.options():
        fixed = {
            name: (domain.index(options[name]) + 0.5) / len(domain.options)
            for name, domain in space.choices.items()
            if name in options
        }
        own = {n: [fixed[n]] if n in fixed else axes[n] for n in space.used(options)}
        grids += [dict(zip(own, p, strict=True)) for p in product(*own.values())]
    return grids


def _points(space: Space, seed: int, runs: float) -> Iterator[dict[str, Any]]:
    """The initial point and the points of all grids, each once."""
    cube, random = UnitCube(space), np.random.default_rng(seed)
    start = space.initial_point()
    yield start
    middle = cube.units(start)
    tried = {_rounded({name: middle[name] for name in space.used(start)})}
    for levels in _grids(space, runs):
        points = _units(space, levels)
        for number in random.permutation(len(points)).tolist():
            rounded = _rounded(points[number])
            if rounded not in tried:
                tried.add(rounded)
                yield cube.point(middle | points[number])


def _rounded(units: dict[str, float]) -> tuple[tuple[str, float], ...]:
    return tuple((name, round(unit, 9)) for name, unit in units.items())


def _grids(space: Space, runs: float) -> Iterator[Levels]:
    """Levels of the largest grid that leaves one of the runs, and of larger ones."""
    numbers = [n for n, d in space.flat_domains().items() if not isinstance(d, Choice)]
    levels = _least_levels(space)
    while True:
        larger = dict(levels)
        if numbers:
            larger[min(numbers, key=levels.__getitem__)] += 1
        if not numbers or _size(space, larger) > runs - 1:
            yield levels
        if not numbers:
            return
        levels = larger
