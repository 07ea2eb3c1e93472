"""Population based training whose members descend."""

from dataclasses import dataclass
from typing import ClassVar

from ray.tune import TuneConfig
from ray.tune.schedulers import PopulationBasedTraining

from raymeta.search.methods.base import TIME_ATTR
from raymeta.search.methods.hybrid import HYPER_LR_FACTOR, HybridMethod
from raymeta.search.methods.pbt import equal_intervals, require_continuous
from raymeta.search.methods.random import random_search
from raymeta.tasks.base import Task


@dataclass(frozen=True)
class PbtDescent(HybridMethod):
    """A population whose members descend, and whose poor members copy good ones.

    After each interval, all members having come as far, the worst quarter copies
    members of the best quarter at random: training state, λ, and the memory of the
    hyper-optimizer. A copy goes on with the hyper learning rate times 1.2 or 0.8. λ
    itself is never perturbed: hypergradients move it. Choices stay with the training
    state. A member that diverges leaves. When a population has ended, another one
    begins elsewhere, as large as the budget still allows, unless half of it is spent.

    Attributes:
        hyper_steps: see `HybridMethod`.
        population: largest number of members.
        intervals: intervals of a run.
        quantile: the share that is copied, and that copies.

    Source: Jaderberg et al. 2017, Algorithm 1, with hypergradients (Franceschi et al.
    2017, RTHO) between its steps; their combination is raymeta's own.
    """

    name: str = "pbt_descent"
    hyper_steps: int = 20
    population: int = 8
    intervals: int = 5
    quantile: float = 0.25
    pauses: ClassVar[bool] = True

    def tune_config(self, task: Task, seed: int) -> TuneConfig:
        """The initial point and random ones under Tune's scheduler.

        Raises:
            ValueError: no hyperparameter is continuous, or one has the name of what a
                scheduler changes here.
        """
        require_continuous(self.name, task.space)
        if HYPER_LR_FACTOR in task.space:
            raise ValueError(
                f"method {self.name!r} keeps its own {HYPER_LR_FACTOR!r}, but the "
                "space has a hyperparameter of that name: call it otherwise"
            )
        scheduler = PopulationBasedTraining(
            time_attr=TIME_ATTR,
            perturbation_interval=self.rungs(task)[0],
            hyperparam_mutations={HYPER_LR_FACTOR: _unchanged},
            quantile_fraction=self.quantile,
            resample_probability=0.0,
            log_config=False,
            synch=True,
        )
        return random_search(task, seed, scheduler)

    def rungs(self, task: Task) -> tuple[int, ...]:
        """The ends of the intervals."""
        return equal_intervals(task, self.intervals)

    def batch_size(self, task: Task, runs: float) -> int:
        """A population, of which every member may train to the end."""
        return max(1, min(self.population, int(runs)))


def _unchanged() -> float:
    """The factor that every member begins with."""
    return 1.0
