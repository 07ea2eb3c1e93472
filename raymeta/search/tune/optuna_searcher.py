"""Optuna's samplers on a space: any names, any options, and its conditions."""

import warnings
from collections.abc import Mapping
from typing import Any

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, TPESampler
from ray import tune
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from raymeta.search.tune.space import to_tune, tune_names
from raymeta.space import Choice, Point, Positive, Space


class OptunaSearcher(Searcher):
    """Tune's `OptunaSearch`, which begins at the initial point.

    Optuna is shown the numbers of options, which may be of any type.

    Args:
        space: what is searched. A sampler sees it as one cube, and what the options do
            not use is suggested for nothing.
        sampler: what suggests. None is Optuna's multivariate TPE, which asks for what
            is used and models each group of hyperparameters that are used together by
            themselves.
        seed: seeds that TPE.
    """

    def __init__(
        self, space: Space, sampler: BaseSampler | None = None, seed: int = 0
    ) -> None:
        super().__init__()
        self._space, self._names = space, tune_names(space)
        self._sampler, self._seed = sampler, seed
        self._inner: Any = None

    def set_search_properties(
        self, metric: str | None, mode: str | None, config: dict, **spec: Any
    ) -> bool:
        """Hand on; the space is known."""
        first = [self._shown(self._space.initial_point())]
        if self._sampler is None:
            self._inner = OptunaSearch(
                self._ask, metric, mode, first, sampler=_grouped(self._seed)
            )
            return True
        self._inner = OptunaSearch(points_to_evaluate=first, sampler=self._sampler)
        choices, shown = self._space.choices, to_tune(self._space)
        domains = {
            self._names[name]: tune.choice(list(range(len(choices[name].options))))
            if name in choices
            else domain
            for name, domain in shown.items()
        }
        return self._inner.set_search_properties(metric, mode, domains, **spec)

    def suggest(self, trial_id: str) -> Point:
        """A point."""
        found = self._inner.suggest(trial_id)
        domains = self._space.flat_domains()
        named = {n: found[s] for n, s in self._names.items() if s in found}
        return {name: _natural(domains[name], value) for name, value in named.items()}

    def on_trial_result(self, trial_id: str, result: dict) -> None:
        """Hand on."""
        self._inner.on_trial_result(trial_id, result)

    def on_trial_complete(
        self, trial_id: str, result: dict | None = None, error: bool = False
    ) -> None:
        """Hand on."""
        self._inner.on_trial_complete(trial_id, result, error)

    def _shown(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """A point as Optuna sees it."""
        domains = self._space.flat_domains()
        return {
            self._names[name]: domain.index(point[name])
            if isinstance(domain, Choice)
            else point[name]
            for name, domain in domains.items()
        }

    def _ask(self, trial: Any) -> None:
        """Define by run: each choice before what depends on it, and only what is used.

        A choice that is not used leaves what depends on it unused.
        """
        options: dict[str, Any] = {}
        for name, choice in self._space.in_order():
            if not self._space.is_active(name, options):
                continue
            numbers = list(range(len(choice.options)))
            asked = trial.suggest_categorical(self._names[name], numbers)
            options[name] = choice.options[asked]
        for flat, domain in self._space.used(options).items():
            if not isinstance(domain, Choice):
                trial.suggest_float(
                    self._names[flat],
                    domain.low,
                    domain.high,
                    log=isinstance(domain, Positive),
                )


def _natural(domain: Any, value: Any) -> Any:
    is_choice = isinstance(domain, Choice)
    return domain.plain(domain.options[value]) if is_choice else value


def _grouped(seed: int) -> BaseSampler:
    with warnings.catch_warnings():  # the options are experimental, says Optuna
        warnings.simplefilter("ignore", ExperimentalWarning)
        return TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)
