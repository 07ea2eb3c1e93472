"""Random search."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from ray.tune import TuneConfig
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher
from ray.tune.search.sample import Categorical, Domain

from raymeta.search.methods.base import METRIC, MODE, SearchMethod
from raymeta.tasks.base import Task


@dataclass(frozen=True)
class Random(SearchMethod):
    """Full runs at hyperparameters drawn uniformly in the coordinates of the space.

    Source: Bergstra & Bengio 2012.
    """

    name: str = "random"

    def tune_config(self, task: Task, seed: int) -> TuneConfig:
        """The initial point, then samples."""
        return random_search(task, seed)

    def ahead(self, task: Task, runs: float) -> float:
        """All: no suggestion depends on a result."""
        return math.inf


def random_search(
    task: Task, seed: int, scheduler: TrialScheduler | None = None
) -> TuneConfig:
    """What Tune is told: the initial point, then samples, under a scheduler."""
    return TuneConfig(
        metric=METRIC,
        mode=MODE,
        search_alg=RandomSearch(seed, first=task.space.initial_point()),
        scheduler=scheduler,
    )


class RandomSearch(Searcher):
    """Tune's domains sampled from one seeded stream."""

    def __init__(self, seed: int, first: dict[str, Any]) -> None:
        super().__init__()
        self._random = np.random.default_rng(seed)
        self._first: dict[str, Any] | None = first
        self._domains: dict[str, Domain] = {}

    def set_search_properties(
        self, metric: str | None, mode: str | None, config: dict, **spec: Any
    ) -> bool:
        """Take the space."""
        self._domains = config
        return True

    def suggest(self, trial_id: str) -> dict[str, Any]:
        """The initial point once, then a sample of every domain."""
        first, self._first = self._first, None
        return first or {name: self._sample(d) for name, d in self._domains.items()}

    def on_trial_complete(
        self, trial_id: str, result: dict | None = None, error: bool = False
    ) -> None:
        """Nothing is learned from a result."""

    def _sample(self, domain: Domain) -> Any:
        # Tune's own sampling of a choice goes through an array, which turns mixed
        # options into strings.
        if isinstance(domain, Categorical):
            return domain.categories[int(self._random.integers(len(domain)))]
        return domain.sample(random_state=self._random)
