"""Logistic regression with a penalty of its own for every feature."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from raymeta.data import split
from raymeta.data.breast_cancer import breast_cancer
from raymeta.modules import module_problem
from raymeta.optim import sgd
from raymeta.problem import BilevelProblem
from raymeta.space import Positive, Space
from raymeta.types import Hparams, Tensors


@dataclass(frozen=True, kw_only=True)
class Logistic:
    r"""Learn the L2 penalties of a logistic regression, one per feature.

    $$ \min_{w, b}\; \frac1n \sum_i \ell(w \cdot x_i + b, y_i)
       + \tfrac12 \sum_j \lambda_j w_j^2 $$

    by heavy-ball descent on all 284 training examples from 0; 142 validation and 143
    test examples. Features are standardized by the training part's mean and deviation.

    Attributes:
        lr: learning rate of the descent. With momentum 0.9 it converges where λ is
            within the space.
        horizon: T, training steps of a full run.
        budget: gradient evaluations of a comparison; 50 full runs by default.

    Source: Foo et al. 2008; Pedregosa 2016, section 4 (penalties by hypergradients).
    """

    lr: float = 0.3
    horizon: int = 150
    budget: float = 7500.0
    name: str = "logistic"
    source: ClassVar[str] = "Foo et al. 2008; breast cancer of scikit-learn"
    licence: ClassVar[str] = "CC BY 4.0"

    @property
    def space(self) -> Space:
        """Starts at the centre of what black-box search samples."""
        return Space(l2=Positive(1e-2, low=1e-5, high=10.0, shape=(30,)))

    def sample(self, seed: int) -> BilevelProblem:
        """A new split."""
        parts = split(*breast_cancer(), fractions=(0.5, 0.25), seed=seed)
        seen = parts.train.tensors[0]
        mean, deviation = seen.mean(0), seen.std(0, correction=0)

        def standardized(part: TensorDataset) -> TensorDataset:
            inputs, labels = part.tensors
            return TensorDataset((inputs - mean) / deviation, labels)

        return module_problem(
            _zero(nn.Linear(30, 1)),
            loss=_loss,
            train=standardized(parts.train),
            val=standardized(parts.val),
            test=standardized(parts.test),
            metrics={"accuracy": _accuracy},
            optimizer=lambda hparams: sgd(self.lr, momentum=0.9),
            regularizer=_penalty,
            seed=seed,
        )


def _zero(linear: nn.Linear) -> nn.Linear:
    for parameter in linear.parameters():
        nn.init.zeros_(parameter)
    return linear


def _penalty(params: Tensors, hparams: Hparams) -> Tensor:
    return 0.5 * (hparams["l2"] * params["weight"].square()).sum()


def _loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(outputs.squeeze(1), targets)


def _accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    right = (outputs.squeeze(1) > 0) == (targets > 0.5)
    return right.to(torch.get_default_dtype()).mean()
