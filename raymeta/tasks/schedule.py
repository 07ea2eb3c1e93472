"""A learning rate for every training step."""

from dataclasses import dataclass
from typing import ClassVar

from torch.nn import functional as F

from raymeta.data import digits, split
from raymeta.modules import module_problem
from raymeta.optim import sgd
from raymeta.problem import BilevelProblem
from raymeta.space import Positive, Space
from raymeta.tasks.networks import accuracy, digits_network, seeded


@dataclass(frozen=True, kw_only=True)
class LearningRateSchedule:
    """Learn one learning rate per step of an MLP on digits: T free values.

    The network, data and batches of the task `digits`, with a momentum of 0.9 and no
    weight decay.

    Attributes:
        horizon: T, training steps of a full run, and the number of hyperparameters.
        budget: gradient evaluations of a comparison; 50 full runs by default.

    Source: Maclaurin et al. 2015, section 3.1 (schedules optimized freely, per step).
    """

    horizon: int = 100
    budget: float = 5000.0
    name: str = "schedule"
    source: ClassVar[str] = "Maclaurin et al. 2015; digits of scikit-learn"
    licence: ClassVar[str] = "CC BY 4.0"

    @property
    def space(self) -> Space:
        """Starts at the centre of what black-box search samples: constant."""
        start = 0.3**0.5 * 10**-1.5
        return Space(lr=Positive(start, low=1e-3, high=0.3, shape=(self.horizon,)))

    def sample(self, seed: int) -> BilevelProblem:
        """A new split, initialization and batch order."""
        parts = split(*digits(), fractions=(0.5, 0.25), seed=seed)
        return module_problem(
            seeded(digits_network, seed),
            loss=F.cross_entropy,
            train=parts.train,
            val=parts.val,
            test=parts.test,
            metrics={"accuracy": accuracy},
            optimizer=lambda hparams: sgd(hparams["lr"], momentum=0.9),
            batch_size=256,
            seed=seed,
        )
