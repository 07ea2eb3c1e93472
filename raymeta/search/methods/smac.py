"""Bayesian optimization with random forests."""

import shutil
import tempfile
import weakref
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from ray.tune import TuneConfig

from raymeta.search.methods.base import METRIC, MODE, SearchMethod
from raymeta.search.tune.ask_tell import Asked, AskTell, AskTellSearcher, sides, start
from raymeta.search.tune.clipped_loss import ClippedLossSearcher
from raymeta.space import Space
from raymeta.tasks.base import Task


@dataclass(frozen=True)
class Smac(SearchMethod):
    """Full runs where a random forest expects most improvement, by SMAC3.

    Its facade for hyperparameter optimization at its defaults: a quarter of the budget,
    at most ten trials for each hyperparameter, is a Sobol' design; a fifth of what
    follows is random. A failed run counts as the worst one so far, a loss above twice
    the initial point's as that: see `ClippedLossSearcher`.

    Attributes:
        runs: full runs that the budget covers.

    Source: Hutter et al. 2011; Lindauer et al. 2022 for the implementation.
    """

    name: str = "smac"
    runs: float = 100.0
    requires: ClassVar[tuple[str, ...]] = ("smac>=2.4",)

    def sized(self, runs: float) -> "Smac":
        """The method for a budget of so many full runs."""
        return replace(self, runs=runs)

    def tune_config(self, task: Task, seed: int) -> TuneConfig:
        """The initial point, the Sobol' design, then the model's."""
        optimizer = _Facade(task.space, seed, self.runs)
        searcher = ClippedLossSearcher(AskTellSearcher(task.space, optimizer))
        return TuneConfig(metric=METRIC, mode=MODE, search_alg=searcher)


class _Facade(AskTell):
    """SMAC's facade; what it writes lies in a folder that goes with it."""

    def __init__(self, space: Space, seed: int, runs: float) -> None:
        from ConfigSpace import Categorical, Configuration, ConfigurationSpace, Float
        from smac import HyperparameterOptimizationFacade, Scenario

        shown, counts = ConfigurationSpace(seed=seed), sides(space)
        self._names = [f"x{number}" for number in range(len(counts))]
        for name, count in zip(self._names, counts, strict=True):
            options = list(range(count))
            shown.add(Categorical(name, options) if count else Float(name, (0.0, 1.0)))
        folder = tempfile.mkdtemp()
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        scenario = Scenario(
            shown,
            deterministic=True,
            n_trials=max(2, int(runs)),
            seed=seed,
            output_directory=folder,
        )
        design = HyperparameterOptimizationFacade.get_initial_design(scenario)
        begin = Configuration(shown, dict(zip(self._names, start(space), strict=True)))
        designed = design.select_configurations
        design.select_configurations = lambda: [
            begin,
            *(c for c in designed() if c != begin),
        ]
        self._facade: Any = HyperparameterOptimizationFacade(
            scenario,
            lambda config, seed=0: 0.0,  # never called: it is asked and told
            initial_design=design,
            overwrite=True,
            logging_level=False,
        )
        self._worst = 0.0

    def ask(self) -> Asked | None:
        from smac.main.exceptions import ConfigurationSpaceExhaustedException

        try:
            info = self._facade.ask()
        except (StopIteration, ConfigurationSpaceExhaustedException):
            return None  # all of a space of choices has been tried
        return Asked(info, [float(info.config[name]) for name in self._names])

    def tell(self, asked: Asked, loss: float | None) -> None:
        from smac.runhistory import StatusType, TrialValue

        failed = loss is None
        loss = self._worst if loss is None else loss
        self._worst = max(self._worst, loss)
        status = StatusType.CRASHED if failed else StatusType.SUCCESS
        self._facade.tell(asked.key, TrialValue(cost=loss, status=status))
