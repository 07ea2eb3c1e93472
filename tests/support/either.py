"""A task whose hyperparameters are not all used: which are, an option says."""

from dataclasses import dataclass

import torch

from raymeta.optim import adam, sgd
from raymeta.problem import BilevelProblem, descent
from raymeta.space import Choice, Positive, Space, Unit


@dataclass(frozen=True, kw_only=True)
class Either:
    """A parabola of four directions, by SGD or by Adam: each has its own settings.

    Attributes:
        declared: whether the space says which.
        slash: within the name of the learning rate.
    """

    name: str = "either"
    horizon: int = 9
    budget: float = 200.0
    declared: bool = False
    opt: str = "sgd"
    slash: str = ""

    @property
    def lr(self) -> str:
        return f"opt{self.slash}lr"

    @property
    def space(self) -> Space:
        domains = {
            self.lr: Positive(0.05, low=1e-3, high=0.3),
            "momentum": Unit(0.5, low=0.1, high=0.9, shape=(2,)),
            "beta1": Unit(0.8, low=0.1, high=0.95),
            "opt": Choice(("sgd", "adam"), initial=self.opt),
            "nesterov": Choice((False, True)),
        }
        conditions = {
            "momentum": {"opt": "sgd"},
            "nesterov": {"opt": "sgd"},
            "beta1": {"opt": "adam"},
        }
        return Space(**domains, when=conditions if self.declared else None)

    def sample(self, seed: int) -> BilevelProblem:
        target = torch.arange(1.0, 5.0) + seed

        def loss(params, *_):
            off = params["w"] - target, params["v"] - target
            return sum((torch.arange(1.0, 5.0) * x.square()).sum() for x in off) / 40

        def optimizer(hparams):
            if hparams["opt"] == "adam":
                return adam(hparams[self.lr], betas=(hparams["beta1"], 0.999))
            momentum = dict(zip(("w", "v"), hparams["momentum"], strict=True))
            nesterov = hparams["nesterov"]
            return sgd(hparams[self.lr], momentum=momentum, nesterov=nesterov)

        zeros = torch.zeros(4)
        return descent(
            init_params=lambda hparams: {"w": zeros, "v": zeros},
            inner_loss=loss,
            outer_loss=loss,
            optimizer=optimizer,
            metrics=lambda params, hparams: {"loss": loss(params)},
        )
