"""Population based training."""

import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

from ray import tune
from ray.tune import TuneConfig
from ray.tune.schedulers import PopulationBasedTraining

from raymeta.search.methods.base import METRIC, MODE, TIME_ATTR, SearchMethod
from raymeta.search.methods.random import RandomSearch
from raymeta.search.methods.rung_schedules import even
from raymeta.search.tune.space import initial_point
from raymeta.search.tune.unit_cube import UnitCube
from raymeta.space import Choice, Positive, Space
from raymeta.tasks.base import Task

#: The range of a hyperparameter that is not `Positive`, as a ratio, for perturbations
#: by factors: 1.2 then is 2.6 % of the range.
RATIO = 1000.0


@dataclass(frozen=True)
class Pbt(SearchMethod):
    """A population whose poor members copy good ones, then perturb their λ.

    After each interval, all members having come as far, the worst quarter copies the
    training state of members of the best quarter at random, and goes on at their
    hyperparameters times 1.2 or 0.8, or at new ones. So a full run of a member has a
    learned schedule of hyperparameters, whose value is its score. A member that
    diverges leaves. When a population has ended, another one begins elsewhere, as large
    as the budget still allows.

    Factors act on λ for `Positive`; any other range is stretched over three decades.
    What leaves the bounds is put on them. The options of a `Choice` stay with the
    training state, which may have been made for them.

    Attributes:
        population: members, at most.
        intervals: of a run.
        quantile: the share that is copied, and that copies.

    Source: Jaderberg et al. 2017, Algorithm 1, as Tune's `PopulationBasedTraining` has
    it in synchronous mode, which does not depend on who comes first.
    """

    name: str = "pbt"
    population: int = 20
    intervals: int = 10
    quantile: float = 0.25
    pauses: ClassVar[bool] = True

    def tune_config(self, task: Task, seed: int) -> TuneConfig:
        """The initial point and random ones under Tune's scheduler.

        Raises:
            ValueError: no hyperparameter is continuous.
        """
        require_continuous(self.name, task.space)
        scheduler = _ByFactors(
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

    def rungs(self, task: Task) -> tuple[int, ...]:
        """The ends of the intervals."""
        return equal_intervals(task, self.intervals)

    def batch_size(self, task: Task, runs: float) -> int:
        """A population, of which every member may train to the end."""
        return max(1, min(self.population, int(runs)))


def equal_intervals(task: Task, count: int) -> tuple[int, ...]:
    """Multiples of one interval, of which about `count` make the horizon.

    Tune perturbs after an interval since the last time, so all have the same length;
    the last one alone may be shorter.
    """
    first = even(task, count)[0]
    return (*range(first, task.horizon, first), task.horizon)


def require_continuous(method: str, space: Space) -> None:
    """Raise ValueError where there is nothing to perturb."""
    if not space.continuous:
        raise ValueError(
            f"method {method!r} changes continuous hyperparameters during training, "
            "but the space has only choices: use another method"
        )


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


class _ByFactors(KeepsConfig):
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
