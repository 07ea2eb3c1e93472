"""An MLP on digits whose width, activation and optimizer are to be chosen, too."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn
from torch.nn import functional as F

from raymeta.data import digits, split
from raymeta.modules import module_problem
from raymeta.optim import Optimizer, adam, sgd
from raymeta.problem import BilevelProblem
from raymeta.space import Choice, Positive, Space, Unit
from raymeta.tasks.networks import (
    DIGITS_LAYERS,
    accuracy,
    by_layer,
    digits_network,
    seeded,
)
from raymeta.types import Hparams

ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU, "gelu": nn.GELU}


@dataclass(frozen=True, kw_only=True)
class DigitsChoices:
    """Learn learning rates, weight decays and momentum, and choose among networks.

    The data and batches of the task `digits`. Gradients leave the choices as they are:
    what searches outside picks them.

    Attributes:
        horizon: T, training steps of a full run.
        budget: gradient evaluations of a comparison, whatever a network's size; 50 full
            runs by default.
    """

    horizon: int = 100
    budget: float = 5000.0
    name: str = "digits-choices"
    source: ClassVar[str] = "digits of scikit-learn"
    licence: ClassVar[str] = "CC BY 4.0"

    @property
    def space(self) -> Space:
        """Starts at the centre of what black-box search samples.

        The momentum is Adam's β_1 where the optimizer is Adam.
        """
        shape = (len(DIGITS_LAYERS),)
        return Space(
            width=Choice((64, 32, 128, 256)),
            activation=Choice(tuple(ACTIVATIONS)),
            optimizer=Choice(("sgd", "adam")),
            lr=Positive(1e-2, low=1e-4, high=1.0, shape=shape),
            weight_decay=Positive(1e-4, low=1e-6, high=1e-2, shape=shape),
            momentum=Unit(0.495, low=0.0, high=0.99),
        )

    def sample(self, seed: int) -> BilevelProblem:
        """A new split, initialization and batch order, at the initial choices."""
        options = {name: c.initial for name, c in self.space.choices.items()}
        return self.sample_for(seed, options)

    def sample_for(self, seed: int, choices: Mapping[str, Any]) -> BilevelProblem:
        """The same split and batch order, with the network that the choices give."""
        parts = split(*digits(), fractions=(0.5, 0.25), seed=seed)
        width, activation = choices["width"], ACTIVATIONS[choices["activation"]]
        return module_problem(
            seeded(lambda: digits_network(width, activation), seed),
            loss=F.cross_entropy,
            train=parts.train,
            val=parts.val,
            test=parts.test,
            metrics={"accuracy": accuracy},
            optimizer=_optimizer,
            batch_size=256,
            seed=seed,
        )


def _optimizer(hparams: Hparams) -> Optimizer:
    lr = by_layer(hparams["lr"], DIGITS_LAYERS)
    weight_decay = by_layer(hparams["weight_decay"], DIGITS_LAYERS)
    momentum = hparams["momentum"]
    if hparams["optimizer"] == "adam":
        return adam(lr, betas=(momentum, 0.999), weight_decay=weight_decay)
    return sgd(lr, weight_decay=weight_decay, momentum=momentum)
