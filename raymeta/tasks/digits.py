"""A three-layer network on scikit-learn's digits."""

from dataclasses import dataclass
from typing import ClassVar

from torch.nn import functional as F

from raymeta.data import digits, split
from raymeta.modules import module_problem
from raymeta.optim import Optimizer, sgd
from raymeta.problem import BilevelProblem
from raymeta.space import Positive, Space, Unit
from raymeta.tasks.networks import (
    DIGITS_LAYERS,
    accuracy,
    by_layer,
    digits_network,
    seeded,
)
from raymeta.types import Hparams


@dataclass(frozen=True, kw_only=True)
class Digits:
    """Learn the learning rates, weight decays and momentum of an MLP on digits.

    A 64-128-128-10 network with tanh, SGD with batches of 256 out of 898 training
    images; 449 validation and 450 test images.

    Attributes:
        per_layer: one learning rate and one weight decay per layer (7 hyperparameters)
            rather than one for all (3).
        horizon: T, training steps of a full run.
        budget: gradient evaluations of a comparison; 50 full runs by default.
    """

    per_layer: bool = True
    horizon: int = 200
    budget: float = 10000.0
    source: ClassVar[str] = "digits of scikit-learn"
    licence: ClassVar[str] = "CC BY 4.0"

    @property
    def name(self) -> str:
        """`digits`, or `digits-global` with one value for all layers."""
        return "digits" if self.per_layer else "digits-global"

    @property
    def space(self) -> Space:
        """Starts at the centre of what black-box search samples."""
        shape = (len(DIGITS_LAYERS),) if self.per_layer else ()
        return Space(
            lr=Positive(1e-2, low=1e-4, high=1.0, shape=shape),
            weight_decay=Positive(1e-4, low=1e-6, high=1e-2, shape=shape),
            momentum=Unit(0.495, low=0.0, high=0.99),
        )

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
            optimizer=self._optimizer,
            batch_size=256,
            seed=seed,
        )

    def _optimizer(self, hparams: Hparams) -> Optimizer:
        lr, weight_decay = hparams["lr"], hparams["weight_decay"]
        if self.per_layer:
            lr = by_layer(lr, DIGITS_LAYERS)
            weight_decay = by_layer(weight_decay, DIGITS_LAYERS)
        return sgd(lr=lr, weight_decay=weight_decay, momentum=hparams["momentum"])
