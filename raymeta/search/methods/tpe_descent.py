"""Search outside, gradients inside."""

from dataclasses import dataclass

from ray.tune import TuneConfig

from raymeta.search.methods.asha import Asha
from raymeta.search.methods.hybrid import HybridMethod
from raymeta.search.methods.tpe import Tpe
from raymeta.tasks.base import Task


@dataclass(frozen=True)
class TpeDescent(HybridMethod):
    """TPE picks choices and starting values, trials descend, and ASHA stops the poor.

    TPE's model is told what training from a starting point came to, not what that point
    is worth as a constant. One budget pays for all: a trial that is stopped gives back
    what it did not use.

    Attributes:
        hyper_steps: see `HybridMethod`.
        reduction_factor: see `Asha`.

    Source: Bergstra et al. 2011; Li et al. 2020; Franceschi et al. 2017 (RTHO). Their
    combination is raymeta's own.
    """

    name: str = "tpe_descent"
    hyper_steps: int = 20
    reduction_factor: int = 3

    def tune_config(self, task: Task, seed: int) -> TuneConfig:
        """TPE under ASHA's scheduler."""
        config = Tpe().tune_config(task, seed)
        config.scheduler = self._asha.tune_config(task, seed).scheduler
        return config

    def rungs(self, task: Task) -> tuple[int, ...]:
        """ASHA's."""
        return self._asha.rungs(task)

    @property
    def _asha(self) -> Asha:
        return Asha(reduction_factor=self.reduction_factor)
