"""Adagrad."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from raymeta.optim.base import Optimizer, safe_sqrt, tensorwise
from raymeta.optim.settings import At, Setting, Settings


class AdagradMemory(NamedTuple):
    """What `adagrad` keeps for one parameter.

    Attributes:
        total: sum of all g², of its shape.
    """

    total: Tensor


def adagrad(
    lr: Setting = 1e-2,
    *,
    lr_decay: Setting = 0.0,
    weight_decay: Setting = 0.0,
    initial_accumulator_value: Setting = 0.0,
    eps: Setting = 1e-10,
    maximize: bool = False,
) -> Optimizer:
    r"""Adagrad as in `torch.optim.Adagrad`, differentiable in every setting.

    $$ G \leftarrow G + g^2,\qquad
       w \leftarrow w - \frac{\alpha}{1 + (k-1)\eta} \frac{g}{\sqrt G + \epsilon} $$

    Args:
        lr: α. Numbers, tensors, mappings and schedules: see `Setting`.
        lr_decay: η.
        weight_decay: λ in $g \leftarrow g + \lambda w$, which comes first.
        initial_accumulator_value: G before the first step; a schedule's first value.
        eps: ε, outside the square root.
        maximize: ascend.

    Raises:
        ValueError: a negative number.

    Source: Duchi et al. 2011, section 1.1 with the diagonal of G. The derivative of √G
    at G = 0 is taken as 0.
    """
    settings = Settings(
        "adagrad",
        nonnegative={
            "lr": lr,
            "lr_decay": lr_decay,
            "weight_decay": weight_decay,
            "initial_accumulator_value": initial_accumulator_value,
            "eps": eps,
        },
    )

    def start(w: Tensor, at: At) -> AdagradMemory:
        return AdagradMemory(torch.zeros_like(w) + at.initial_accumulator_value)

    def step(
        w: Tensor, g: Tensor, memory: AdagradMemory, k: Tensor, at: At
    ) -> tuple[Tensor, AdagradMemory]:
        total = memory.total + g.square()
        lr = at.lr / (1 + (k - 1) * at.lr_decay)
        return w - lr * g / (safe_sqrt(total) + at.eps), AdagradMemory(total)

    return tensorwise(start, step, settings, maximize=maximize, stands_for="Adagrad")
