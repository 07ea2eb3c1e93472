"""The unit cube: the space in the coordinates that black-box search samples."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from ray import tune
from ray.tune.search import Searcher

from raymeta.search.tune.space import tune_names
from raymeta.space import Choice, Domain, Point, Positive, Space


class UnitCube:
    """A space as [0, 1]^d, one side for each scalar hyperparameter.

    A side is uniform in the space's own sampling: log λ for `Positive`, λ itself for
    `Unit` and `Real`. The n options of a `Choice` are n intervals of equal length.
    """

    def __init__(self, space: Space) -> None:
        self.domains = space.flat_domains()
        self._initial = space.initial_point()

    def point(self, units: Mapping[str, float]) -> Point:
        """The point there; units beyond [0, 1] become its ends."""
        return {
            name: _natural(domain, min(max(float(units[name]), 0.0), 1.0))
            for name, domain in self.domains.items()
        }

    def units(self, point: Mapping[str, Any]) -> dict[str, float]:
        """Where a point lies on the sides; the middle of an option's interval.

        What the options do not use has its initial value.
        """
        return {
            name: _unit(domain, point.get(name, self._initial[name]))
            for name, domain in self.domains.items()
        }


class UnitCubeSearcher(Searcher):
    """A searcher of Tune that is shown the unit cube in place of the space.

    For searchers which do not know logarithmic domains, or options of any type.

    Args:
        space: what is searched.
        inner: the searcher, which takes space, metric and mode from here, and has the
            initial point as the first that it suggests.
        intervals: whether `inner` sees the options of a choice as intervals of [0, 1];
            otherwise as numbers 0, 1, … to choose from.
    """

    def __init__(self, space: Space, inner: Searcher, *, intervals: bool) -> None:
        super().__init__()
        self.inner: Any = inner
        self._space, self._cube = space, UnitCube(space)
        # Of the options that the searcher chooses from; 0 for a side of the cube.
        self._names = tune_names(space)
        self._counts = {
            self._names[name]: 0
            if intervals or not isinstance(d, Choice)
            else len(d.options)
            for name, d in self._cube.domains.items()
        }
        self._started = False

    def set_search_properties(
        self, metric: str | None, mode: str | None, config: dict, **spec: Any
    ) -> bool:
        """Hand on the unit cube."""
        domains = {
            name: tune.choice(list(range(count))) if count else tune.uniform(0.0, 1.0)
            for name, count in self._counts.items()
        }
        return self.inner.set_search_properties(metric, mode, domains, **spec)

    def suggest(self, trial_id: str) -> Any:
        """The initial point to the last bit, then what the searcher suggests."""
        found = self.inner.suggest(trial_id)
        if found is None or found == Searcher.FINISHED:
            return found
        if not self._started:
            self._started = True
            return self._space.initial_point()
        units = {
            shown: (found[shown] + 0.5) / count if count else found[shown]
            for shown, count in self._counts.items()
        }
        return self._cube.point({n: units[shown] for n, shown in self._names.items()})

    def on_trial_result(self, trial_id: str, result: dict) -> None:
        """Hand on."""
        self.inner.on_trial_result(trial_id, result)

    def on_trial_complete(
        self, trial_id: str, result: dict | None = None, error: bool = False
    ) -> None:
        """Hand on."""
        self.inner.on_trial_complete(trial_id, result, error)

    def on_pause(self, trial_id: str) -> None:
        """Hand on, to BOHB."""
        self.inner.on_pause(trial_id)

    def on_unpause(self, trial_id: str) -> None:
        """Hand on, to BOHB."""
        self.inner.on_unpause(trial_id)


def first_units(space: Space, *, intervals: bool) -> dict[str, float | int]:
    """The initial point as a searcher behind `UnitCubeSearcher` sees it."""
    start = space.initial_point()
    units: dict[str, float | int] = dict(UnitCube(space).units(start))
    if not intervals:
        for name, choice in space.choices.items():
            units[name] = choice.index(start[name])
    return {shown: units[name] for name, shown in tune_names(space).items()}


def _natural(domain: Domain, unit: float) -> Any:
    if isinstance(domain, Choice):
        count = len(domain.options)
        return domain.plain(domain.options[min(int(unit * count), count - 1)])
    low, high = domain.sampled
    coordinate = torch.tensor(low + (high - low) * unit, dtype=torch.float64)
    return min(max(float(domain.unsampled(coordinate)), domain.low), domain.high)


def _unit(domain: Domain, value: Any) -> float:
    if isinstance(domain, Choice):
        return (domain.index(value) + 0.5) / len(domain.options)
    low, high = domain.sampled
    sampled = math.log(value) if isinstance(domain, Positive) else float(value)
    return (sampled - low) / (high - low)
