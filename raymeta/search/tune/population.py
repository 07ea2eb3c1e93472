"""Tune's population based schedulers, perturbing where the space is uniform."""

import math
from types import SimpleNamespace
from typing import Any

from ray import tune
from ray.tune.schedulers import PopulationBasedTraining

from raymeta.search.tune.unit_cube import UnitCube
from raymeta.space import Choice, Positive, Space

#: The range of a hyperparameter that is not `Positive`, as a ratio, for perturbations
#: by factors: 1.2 then is 2.6 % of the range.
RATIO = 1000.0


class KeepsConfig(PopulationBasedTraining):
    """Tune's scheduler, which would fill in what a trial's options do not use."""

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Take the trial, and leave its hyperparameters."""
        config = dict(trial.config)
        super().on_trial_add(tune_controller, trial)
        trial.config = config

    def _exploit(self, tune_controller: Any, trial: Any, trial_to_clone: Any) -> None:
        """Change what the options of the cloned trial use, and nothing else."""
        every, used = self._hyperparam_mutations, trial_to_clone.config
        self._hyperparam_mutations = {n: m for n, m in every.items() if n in used}
        super()._exploit(tune_controller, trial, trial_to_clone)
        self._hyperparam_mutations = every


class PBTByFactors(KeepsConfig):
    """Tune's scheduler, which perturbs by factors in coordinates where these fit."""

    def __init__(self, space: Space, **options: Any) -> None:
        self._cube = UnitCube(space)
        self._ratios = {
            name: domain.high / domain.low if isinstance(domain, Positive) else RATIO
            for name, domain in self._cube.domains.items()
            if not isinstance(domain, Choice)
        }
        mutations = {name: tune.loguniform(1.0, r) for name, r in self._ratios.items()}
        super().__init__(hyperparam_mutations=mutations, **options)

    def _get_new_config(self, trial: Any, trial_to_clone: Any) -> tuple[dict, dict]:
        config = trial_to_clone.config
        units = self._cube.units(config)
        stretched = {name: ratio ** units[name] for name, ratio in self._ratios.items()}
        shown: Any = SimpleNamespace(config=stretched)
        found, said = super()._get_new_config(trial, shown)
        moved = {n: math.log(found[n]) / math.log(r) for n, r in self._ratios.items()}
        new = self._cube.point(units | moved)
        moving = [name for name in self._ratios if name in config]  # others are unused
        return config | {name: new[name] for name in moving}, said
