"""Local and global search at once."""

from dataclasses import dataclass
from typing import Any, ClassVar

from ray.tune import TuneConfig
from ray.tune.search import Searcher

from raymeta.search.methods.base import METRIC, MODE, SearchMethod
from raymeta.search.tune.unit_cube import UnitCubeSearcher, first_units
from raymeta.tasks.base import Task

#: How often in a row FLAML's own loop lets its searcher suggest nothing.
PATIENCE = 100


@dataclass(frozen=True)
class BlendSearch(SearchMethod):
    """Full runs of randomized direct searches that TPE starts, by FLAML's BlendSearch.

    All trials cost the same to it.

    Source: Wang et al. 2021.
    """

    name: str = "blendsearch"
    requires: ClassVar[tuple[str, ...]] = ("flaml>=2.8",)

    def tune_config(self, task: Task, seed: int) -> TuneConfig:
        """The initial point, then those of the searches."""
        from flaml import BlendSearch as Blend

        first = first_units(task.space, intervals=False)
        inner = _Patient(Blend(points_to_evaluate=[first], seed=seed))
        searcher = UnitCubeSearcher(task.space, inner, intervals=False)
        return TuneConfig(metric=METRIC, mode=MODE, search_alg=searcher)


class _Patient(Searcher):
    """A searcher that is asked again where it suggests nothing, as FLAML does."""

    def __init__(self, inner: Searcher) -> None:
        super().__init__()
        self._inner: Any = inner
        self._configs: dict[str, dict[str, Any]] = {}

    def set_search_properties(
        self, metric: str | None, mode: str | None, config: dict, **spec: Any
    ) -> bool:
        """Hand on."""
        return self._inner.set_search_properties(metric, mode, config, **spec)

    def suggest(self, trial_id: str) -> Any:
        """The next point, or None where it has none."""
        for _ in range(PATIENCE):
            found = self._inner.suggest(trial_id)
            if found is not None:
                self._configs[trial_id] = dict(found)
                return found
        return None

    def on_trial_complete(
        self, trial_id: str, result: dict | None = None, error: bool = False
    ) -> None:
        """Hand on, with the point as it was suggested."""
        config = self._configs.pop(trial_id)
        if result is not None:
            result = {METRIC: result[METRIC], "config": config}
        self._inner.on_trial_complete(trial_id, result, error)
