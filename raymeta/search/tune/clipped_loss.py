"""Losses as a Gaussian process can bear them."""

from typing import Any

from ray.tune.search import Searcher

from raymeta.search.methods.base import METRIC


class ClippedLossSearcher(Searcher):
    """A searcher of Tune that is told no loss above twice the first one.

    A run that nearly diverges may end 10^20 above the others. A model of the losses'
    values, standardized, then sees those as equal. With the first loss E_0, it is told
    min(E, E_0 + |E_0|).

    Args:
        inner: the searcher.
    """

    def __init__(self, inner: Searcher) -> None:
        super().__init__()
        self.inner = inner
        self._cap: float | None = None

    def set_search_properties(
        self, metric: str | None, mode: str | None, config: dict, **spec: Any
    ) -> bool:
        """Hand on."""
        return self.inner.set_search_properties(metric, mode, config, **spec)

    def suggest(self, trial_id: str) -> Any:
        """Hand on."""
        return self.inner.suggest(trial_id)

    def on_trial_complete(
        self, trial_id: str, result: dict | None = None, error: bool = False
    ) -> None:
        """Hand on what a full run found, capped."""
        if result is not None:
            loss = result[METRIC]
            if self._cap is None:
                self._cap = loss + abs(loss)
            result = result | {METRIC: min(loss, self._cap)}
        self.inner.on_trial_complete(trial_id, result, error)
