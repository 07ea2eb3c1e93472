"""Bayesian optimization by Ax and BoTorch."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from ray.tune import TuneConfig

from raymeta.search.methods.base import METRIC, MODE, SearchMethod
from raymeta.search.tune.ask_tell import Asked, AskTell, AskTellSearcher, sides, start
from raymeta.search.tune.clipped_loss import ClippedLossSearcher
from raymeta.space import Space
from raymeta.tasks.base import Task


@dataclass(frozen=True)
class Ax(SearchMethod):
    """Full runs where BoTorch's Gaussian process expects most improvement, by Ax.

    Its client at its defaults: the initial point and a Sobol' design make five trials,
    then logarithmic noisy expected improvement. A suggestion takes one thread, so that
    it is the same on any machine, and a second or more. Losses above twice the initial
    point's count as that: see `ClippedLossSearcher`.

    Source: Balandat et al. 2020; Olson et al. 2025 for the implementation.
    """

    name: str = "ax"
    requires: ClassVar[tuple[str, ...]] = ("ax-platform>=1.3",)

    def tune_config(self, task: Task, seed: int) -> TuneConfig:
        """The initial point, the Sobol' design, then the model's."""
        optimizer = _Client(task.space, seed)
        searcher = ClippedLossSearcher(AskTellSearcher(task.space, optimizer))
        return TuneConfig(metric=METRIC, mode=MODE, search_alg=searcher)


class _Client(AskTell):
    """Ax's client, silent and on one thread."""

    def __init__(self, space: Space, seed: int) -> None:
        with _alone():
            from ax.api.client import Client
            from ax.api.configs import ChoiceParameterConfig, RangeParameterConfig

            counts = sides(space)
            self._names = [f"x{number}" for number in range(len(counts))]
            self._client: Any = Client(random_seed=seed)
            self._client.configure_experiment(
                parameters=[
                    ChoiceParameterConfig(
                        name=name,
                        parameter_type="int",
                        values=list(range(count)),
                        is_ordered=False,
                    )
                    if count
                    else RangeParameterConfig(
                        name=name, parameter_type="float", bounds=(0.0, 1.0)
                    )
                    for name, count in zip(self._names, counts, strict=True)
                ]
            )
            self._client.configure_optimization(objective=f"-{METRIC}")
        self._first: Sequence[float] | None = start(space)

    def ask(self) -> Asked | None:
        with _alone():
            if self._first is not None:
                first, self._first = self._first, None
                point = dict(zip(self._names, first, strict=True))
                return Asked(self._client.attach_trial(parameters=point), first)
            trials = self._client.get_next_trials(max_trials=1)
        for key, point in trials.items():
            return Asked(key, [point[name] for name in self._names])
        return None

    def tell(self, asked: Asked, loss: float | None) -> None:
        with _alone():
            if loss is None:
                self._client.mark_trial_failed(trial_index=asked.key)
            else:
                self._client.complete_trial(
                    trial_index=asked.key, raw_data={METRIC: loss}
                )


@contextmanager
def _alone() -> Iterator[None]:
    threads, disabled = torch.get_num_threads(), logging.root.manager.disable
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_num_threads(threads)
        logging.disable(disabled)
