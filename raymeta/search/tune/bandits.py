"""Tune's population based bandits, in the unit cube.

A module of its own: Tune's brings scikit-learn along, which takes a second to import.
"""

from typing import Any

from ray.tune.schedulers.pb2 import PB2

from raymeta.search.tune.population import KeepsConfig
from raymeta.search.tune.space import tune_names
from raymeta.search.tune.unit_cube import UnitCube
from raymeta.space import Choice, Space


class _Seen:
    """A trial of which the scheduler sees the unit cube's coordinates."""

    def __init__(self, trial: Any, cube: UnitCube, names: dict[str, str]) -> None:
        self.trial_id, units = trial.trial_id, cube.units(trial.config)
        self.config = {names[name]: unit for name, unit in units.items()}

    def __str__(self) -> str:
        return self.trial_id


class PB2InUnitCube(KeepsConfig, PB2):
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
