"""A three-layer network on scikit-learn's digits."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from raymeta.data import digits, split
from raymeta.modules import module_problem
from raymeta.optim import Optimizer, sgd
from raymeta.problem import BilevelProblem
from raymeta.space import Positive, Space, Unit
from raymeta.types import Hparams

LAYERS = ("0", "2", "4")


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

    @property
    def name(self) -> str:
        """`digits`, or `digits-global` with one value for all layers."""
        return "digits" if self.per_layer else "digits-global"

    @property
    def space(self) -> Space:
        """Starts at the centre of what black-box search samples."""
        shape = (len(LAYERS),) if self.per_layer else ()
        return Space(
            lr=Positive(1e-2, low=1e-4, high=1.0, shape=shape),
            weight_decay=Positive(1e-4, low=1e-6, high=1e-2, shape=shape),
            momentum=Unit(0.495, low=0.0, high=0.99),
        )

    def sample(self, seed: int) -> BilevelProblem:
        """A new split, initialization and batch order."""
        parts = split(*digits(), fractions=(0.5, 0.25), seed=seed)
        return module_problem(
            _network(seed),
            loss=F.cross_entropy,
            train=parts.train,
            val=parts.val,
            test=parts.test,
            metrics={"accuracy": _accuracy},
            optimizer=self._optimizer,
            batch_size=256,
            seed=seed,
        )

    def _optimizer(self, hparams: Hparams) -> Optimizer:
        lr, weight_decay = hparams["lr"], hparams["weight_decay"]
        if self.per_layer:
            lr = dict(zip(LAYERS, lr.unbind(), strict=True))
            weight_decay = dict(zip(LAYERS, weight_decay.unbind(), strict=True))
        return sgd(lr=lr, weight_decay=weight_decay, momentum=hparams["momentum"])


def _network(seed: int) -> nn.Module:
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(64, 128),
            nn.Tanh(),
            nn.Linear(128, 128),
            nn.Tanh(),
            nn.Linear(128, 10),
        )


def _accuracy(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (outputs.argmax(-1) == targets).to(outputs.dtype).mean()
