"""Conformal quantile regression, alone and under successive halving."""

from dataclasses import dataclass
from typing import Any, ClassVar

from ray.tune import TuneConfig

from raymeta.search.methods.asha import Asha
from raymeta.search.methods.base import METRIC, MODE, SearchMethod
from raymeta.search.tune.ask_tell import Asked, AskTell, AskTellSearcher, sides, start
from raymeta.space import Space
from raymeta.tasks.base import Task

_REQUIRES = ("syne-tune>=0.16", "huggingface_hub")


@dataclass(frozen=True)
class Cqr(SearchMethod):
    """Full runs sampled from conformalized quantiles of boosted trees, by syne-tune.

    Of two thousand random points, that whose sampled quantile of the loss is least.

    Source: Salinas et al. 2023.
    """

    name: str = "cqr"
    requires: ClassVar[tuple[str, ...]] = _REQUIRES

    def tune_config(self, task: Task, seed: int) -> TuneConfig:
        """The initial point, four random ones, then the model's."""
        regression = _Regression(task.space, seed, rungs=False)
        searcher = AskTellSearcher(task.space, regression)
        return TuneConfig(metric=METRIC, mode=MODE, search_alg=searcher)


@dataclass(frozen=True)
class AshaCqr(Asha):
    """ASHA that begins trials where boosted trees' quantiles are low, by syne-tune.

    The model is of each trial's last loss, at whichever rung.

    Source: Salinas et al. 2023, § 4, with Tune's scheduler of `asha`.
    """

    name: str = "asha_cqr"
    requires: ClassVar[tuple[str, ...]] = _REQUIRES

    def tune_config(self, task: Task, seed: int) -> TuneConfig:
        """The initial point, four random ones, then the model's, under ASHA."""
        regression = _Regression(task.space, seed, rungs=True)
        return TuneConfig(
            metric=METRIC,
            mode=MODE,
            search_alg=_RungSearcher(task.space, regression),
            scheduler=self.scheduler(task),
        )


class _RungSearcher(AskTellSearcher):
    """The same, told of losses on the way, too."""

    def __init__(self, space: Space, regression: "_Regression") -> None:
        super().__init__(space, regression)
        self._regression = regression

    def on_trial_result(self, trial_id: str, result: dict) -> None:
        """Hand on."""
        self._regression.report(self.asked[trial_id], result[METRIC])


class _Regression(AskTell):
    """syne-tune's searcher.

    Args:
        space: what is searched.
        seed: seeds it.
        rungs: whether it learns from losses on the way, too.
    """

    def __init__(self, space: Space, seed: int, rungs: bool) -> None:
        from syne_tune.config_space import choice, uniform

        shown = {
            f"x{number}": choice(list(range(count))) if count else uniform(0.0, 1.0)
            for number, count in enumerate(sides(space))
        }
        begin = [dict(zip(shown, start(space), strict=True))]
        self._searcher: Any
        if rungs:
            from syne_tune.optimizer.schedulers.searchers.last_value_multi_fidelity_searcher import (  # noqa: E501
                LastValueMultiFidelitySearcher,
            )

            self._searcher = LastValueMultiFidelitySearcher(
                shown, random_seed=seed, points_to_evaluate=begin, searcher="cqr"
            )
        else:
            from syne_tune.optimizer.schedulers.searchers.conformal import (
                conformal_quantile_regression_searcher as conformal,
            )

            self._searcher = conformal.ConformalQuantileRegression(
                shown, random_seed=seed, points_to_evaluate=begin
            )
        self._number = -1

    def ask(self) -> Asked | None:
        config = self._searcher.suggest()
        self._number += 1
        return Asked((self._number, config), [float(x) for x in config.values()])

    def report(self, asked: Asked, loss: float) -> None:
        number, config = asked.key
        self._searcher.on_trial_result(number, config, loss)

    def tell(self, asked: Asked, loss: float | None) -> None:
        number, config = asked.key
        if loss is None:
            self._searcher.on_trial_error(number)
        else:
            self._searcher.on_trial_complete(number, config, loss)
