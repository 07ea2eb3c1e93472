"""Tasks of a few steps, and the estimators that are run on them."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from raymeta.hypergrad import Estimator, Forward, Reverse, ShortTerm
from raymeta.modules import module_problem
from raymeta.optim import sgd
from raymeta.problem import BilevelProblem, descent
from raymeta.space import Choice, Positive, Space, Unit
from raymeta.tasks import Quadratic, Task
from raymeta.types import Hparams, Tensors


@dataclass(frozen=True, kw_only=True)
class Small:
    """A classifier with dropout and batch norm; λ of several shapes, and a choice."""

    horizon: int = 13
    budget: float = 1000.0
    name: str = "small"

    @property
    def space(self) -> Space:
        return Space(
            lr=Positive([0.03, 0.1], low=1e-3, high=3.0, shape=(2,)),
            sign=Choice([1.0, -1.0]),
            momentum=Unit(0.5, high=0.95),
            l2=Positive(1e-3),
        )

    def sample(self, seed: int) -> BilevelProblem:
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(30, 4, generator=generator)
        y = (x[:, 0] + 0.3 * x[:, 1] > 0).long()
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            norm, drop = nn.BatchNorm1d(6), nn.Dropout(0.2)
            net = nn.Sequential(nn.Linear(4, 6), norm, nn.Tanh(), drop, nn.Linear(6, 2))

        def l2(params: Tensors, hparams: Hparams) -> torch.Tensor:
            squares = sum(p.square().sum() for p in params.values())
            return hparams["sign"] * hparams["l2"] * squares

        def optimizer(hparams: Hparams):
            lr = dict(zip(("0", "1"), hparams["lr"], strict=True))
            return sgd(lr | {"4": hparams["lr"][1]}, momentum=hparams["momentum"])

        return module_problem(
            net,
            loss=F.cross_entropy,
            train=TensorDataset(x[:18], y[:18]),
            val=TensorDataset(x[18:24], y[18:24]),
            test=TensorDataset(x[24:], y[24:]),
            metrics={"share": lambda outputs, targets: targets.double().mean()},
            optimizer=optimizer,
            batch_size=6,
            seed=seed,
            regularizer=l2,
        )


@dataclass(frozen=True, kw_only=True)
class Bounded(Small):
    """The same, for black-box searches, too; in double precision wherever it runs."""

    @property
    def space(self) -> Space:
        return Space(
            lr=Positive([0.03, 0.1], low=1e-3, high=3.0, shape=(2,)),
            sign=Choice([1.0, -1.0]),
            momentum=Unit(0.5, low=0.0, high=0.95),
            l2=Positive(1e-3, low=1e-5, high=0.1),
        )

    def sample(self, seed: int) -> BilevelProblem:
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            return super().sample(seed)
        finally:
            torch.set_default_dtype(before)


@dataclass(frozen=True, kw_only=True)
class OneStep:
    """One step on a parabola: the best learning rate has a closed form."""

    eigenvalues: tuple[float, ...] = (1.0, 3.0, 9.0)
    horizon: int = 1
    budget: float = 300.0
    name: str = "one step"

    @property
    def space(self) -> Space:
        return Space(lr=Positive(1e-3, low=1e-5, high=1e3))

    @property
    def best_lr(self) -> float:
        squares, cubes = (sum(h**k for h in self.eigenvalues) for k in (2, 3))
        return squares / cubes

    def sample(self, seed: int) -> BilevelProblem:
        h = torch.tensor(self.eigenvalues)

        def loss(params: Tensors, *_: object) -> torch.Tensor:
            return 0.5 * (h * params["w"].square()).sum()

        return descent(
            init_params=lambda hparams: {"w": torch.ones(len(h))},
            inner_loss=loss,
            outer_loss=loss,
            optimizer=lambda hparams: sgd(hparams["lr"]),
        )


@dataclass(frozen=True, kw_only=True)
class Diverging(Quadratic):
    """Starts where every step multiplies the weights."""

    lr: float = 3.0

    @property
    def space(self) -> Space:
        return Space(lr=Positive(self.lr), momentum=Unit(0.5))


WHOLE: list[Estimator] = [Reverse(13), Forward(13)]
ONLINE: list[Estimator] = [
    ShortTerm(1),
    ShortTerm(3),
    ShortTerm(8),
    Forward(1),
    Forward(5),
]
every_estimator = pytest.mark.parametrize("estimator", WHOLE + ONLINE, ids=str)


def with_horizon(estimator: Estimator, steps: int) -> Estimator:
    return replace(estimator, steps=steps) if estimator in WHOLE else estimator


def run_cost(estimator: Estimator, task: Task) -> float:
    """By the estimators' docstrings, for λ in the inner loss as well."""
    lengths = [estimator.steps] * (task.horizon // estimator.steps)
    if left := task.horizon % estimator.steps:
        lengths.append(left)
    outer = task.sample(0).outer_cost
    scalars = len(task.space.flat_domains()) - len(task.space.choices)
    per_step = 1 + 2 * scalars if isinstance(estimator, Forward) else 3
    return sum(per_step * steps + outer for steps in lengths)
