"""Other libraries' optimizers, by their own ask and tell, as searchers of Tune."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

from ray.tune.search import Searcher

from raymeta.search.methods.base import METRIC
from raymeta.search.tune.unit_cube import UnitCube, first_units
from raymeta.space import Choice, Space


class Asked(NamedTuple):
    """What an optimizer suggests.

    Attributes:
        key: by which it knows the trial when it is told.
        values: one for each side, see `sides`.
    """

    key: Any
    values: Sequence[float]


class AskTell(ABC):
    """An optimizer on the sides of a space, whose first suggestion is the start."""

    @abstractmethod
    def ask(self) -> Asked | None:
        """What to try next; None where it has nothing more."""

    @abstractmethod
    def tell(self, asked: Asked, loss: float | None) -> None:
        """What a trial ended with; None where it failed."""


class AskTellSearcher(Searcher):
    """A searcher of Tune that asks an optimizer, and tells it.

    Args:
        space: what is searched.
        optimizer: on the `sides` of the space, from its `start`.

    Attributes:
        asked: of trials that are not over.
    """

    def __init__(self, space: Space, optimizer: AskTell) -> None:
        super().__init__()
        self._space, self._optimizer = space, optimizer
        self._cube, self._counts = UnitCube(space), sides(space)
        self.asked: dict[str, Asked] = {}
        self._started = False

    def set_search_properties(
        self, metric: str | None, mode: str | None, config: dict, **spec: Any
    ) -> bool:
        """The space is known."""
        return True

    def suggest(self, trial_id: str) -> Any:
        """The initial point to the last bit, then what the optimizer suggests."""
        asked = self._optimizer.ask()
        if asked is None:
            return Searcher.FINISHED
        self.asked[trial_id] = asked
        if not self._started:
            self._started = True
            return self._space.initial_point()
        units = {
            name: (value + 0.5) / count if count else value
            for name, value, count in zip(
                self._cube.domains, asked.values, self._counts, strict=True
            )
        }
        return self._cube.point(units)

    def on_trial_complete(
        self, trial_id: str, result: dict | None = None, error: bool = False
    ) -> None:
        """Hand on what a trial ended with."""
        loss = None if error or result is None else result[METRIC]
        self._optimizer.tell(self.asked.pop(trial_id), loss)


def sides(space: Space) -> list[int]:
    """Of each scalar hyperparameter: 0 for [0, 1], n for a choice among 0, …, n-1."""
    return [
        len(domain.options) if isinstance(domain, Choice) else 0
        for domain in space.flat_domains().values()
    ]


def start(space: Space) -> list[float]:
    """The initial point on these sides."""
    return list(first_units(space, intervals=False).values())
