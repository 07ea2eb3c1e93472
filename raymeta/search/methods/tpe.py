"""Tree-structured Parzen estimators."""

from dataclasses import dataclass

from optuna.samplers import TPESampler
from ray.tune import TuneConfig

from raymeta.search.methods.base import METRIC, MODE, SearchMethod
from raymeta.search.tune.optuna_searcher import OptunaSearcher
from raymeta.tasks.base import Task


@dataclass(frozen=True)
class Tpe(SearchMethod):
    """Full runs where the density of good hyperparameters is high, by Optuna's TPE.

    Where options say which hyperparameters are used, those that are used together are
    modelled together, by Optuna's group decomposition. What is in flight counts as poor
    (a constant lie), so several at once look at different places.

    Attributes:
        name: name of the method.
        multivariate: whether hyperparameters are modelled together in every space; one
            by one without, as Optuna does by default.

    Source: Bergstra et al. 2011; Watanabe 2023 for what Optuna does.
    """

    name: str = "tpe"
    multivariate: bool = False

    @property
    def summary(self) -> str:
        """What it does, in one line."""
        kind = "multivariate TPE" if self.multivariate else "TPE"
        return f"Full runs where good hyperparameters are dense, by Optuna's {kind}."

    def tune_config(self, task: Task, seed: int) -> TuneConfig:
        """The initial point, nine random ones, then the model's."""
        together = self.multivariate or task.space.when
        whole = None if together else TPESampler(seed=seed, constant_liar=True)
        searcher = OptunaSearcher(task.space, whole, seed)
        return TuneConfig(metric=METRIC, mode=MODE, search_alg=searcher)
