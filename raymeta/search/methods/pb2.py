"""Population based bandits."""

from dataclasses import dataclass
from typing import Any

from ray.tune import TuneConfig
from ray.tune.schedulers.pb2 import PB2

from raymeta.search.methods.base import METRIC, MODE, TIME_ATTR
from raymeta.search.methods.pbt import KeepsConfig, Pbt, require_continuous
from raymeta.search.methods.random import RandomSearch
from raymeta.search.tune.space import initial_point, tune_names
from raymeta.search.tune.unit_cube import UnitCube
from raymeta.space import Choice, Space
from raymeta.tasks.base import Task


@dataclass(frozen=True)
class Pb2(Pbt):
    """PBT whose copies go on where a Gaussian process expects most progress.

    The process predicts from time, loss and hyperparameters, in the unit cube of the
    space's sampled coordinates, how much the loss falls until the next time. It knows
    the population that trains, not those before. A copy costs the driver a second, so
    there are few of them.

    Source: Parker-Holder et al. 2020, Algorithm 1, as Tune's `PB2` has it in
    synchronous mode; small populations, as in the paper.
    """

    name: str = "pb2"
    population: int = 8
    intervals: int = 5

    def tune_config(self, task: Task, seed: int) -> TuneConfig:
        """The initial point and random ones under Tune's scheduler.

        Raises:
            ValueError: no hyperparameter is continuous.
        """
        require_continuous(self.name, task.space)
        scheduler = _InCube(
            task.space,
            time_attr=TIME_ATTR,
            perturbation_interval=self.rungs(task)[0],
            quantile_fraction=self.quantile,
            log_config=False,
            synch=True,
        )
        return TuneConfig(
            metric=METRIC,
            mode=MODE,
            search_alg=RandomSearch(seed, first=initial_point(task.space)),
            scheduler=scheduler,
        )


class _Seen:
    """A trial of which the scheduler sees the unit cube's coordinates."""

    def __init__(self, trial: Any, cube: UnitCube, names: dict[str, str]) -> None:
        self.trial_id, units = trial.trial_id, cube.units(trial.config)
        self.config = {names[name]: unit for name, unit in units.items()}

    def __str__(self) -> str:
        return self.trial_id


class _InCube(KeepsConfig, PB2):
    """Tune's scheduler, in the unit cube."""

    def __init__(self, space: Space, **options: Any) -> None:
        self._cube, self._names = UnitCube(space), tune_names(space)
        self._moving = [
            name for name, d in self._cube.domains.items() if not isinstance(d, Choice)
        ]
        bounds: dict[str, Any] = {
            self._names[name]: [0.0, 1.0] for name in self._moving
        }
        super().__init__(hyperparam_bounds=bounds, **options)

    def _save_trial_state(
        self, state: Any, time: int, result: dict, trial: Any
    ) -> float:
        seen: Any = _Seen(trial, self._cube, self._names)
        return super()._save_trial_state(state, time, result, seen)

    def _get_new_config(self, trial: Any, trial_to_clone: Any) -> tuple[dict, dict]:
        config = trial_to_clone.config
        mine: Any = _Seen(trial, self._cube, self._names)
        theirs: Any = _Seen(trial_to_clone, self._cube, self._names)
        units, said = super()._get_new_config(mine, theirs)
        if units == theirs.config:
            return config, said  # nothing is known yet; to the last bit
        found = self._cube.point({n: units[shown] for n, shown in self._names.items()})
        moving = [name for name in self._moving if name in config]  # others are unused
        return config | {name: found[name] for name in moving}, said
