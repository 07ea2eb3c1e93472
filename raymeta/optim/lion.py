"""Lion."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from raymeta.optim.adam import pair
from raymeta.optim.base import Optimizer, tensorwise
from raymeta.optim.settings import At, Setting, Settings


class LionMemory(NamedTuple):
    """What `lion` keeps for one parameter.

    Attributes:
        m: running mean of the gradient, of its shape.
    """

    m: Tensor


def lion(
    lr: Setting = 1e-4,
    *,
    betas: tuple[Setting, Setting] = (0.9, 0.99),
    weight_decay: Setting = 0.0,
    maximize: bool = False,
) -> Optimizer:
    r"""Lion, differentiable in every setting.

    $$ w \leftarrow w - \alpha\, (\operatorname{sign}(\beta_1 m + (1-\beta_1) g)
                                  + \lambda w),\qquad
       m \leftarrow \beta_2 m + (1-\beta_2) g $$

    The derivative of sign is 0: β1, β2 and whatever acts through the gradient alone
    have a hypergradient of exactly 0, so only α, λ and the initial weights can be
    learnt by descent.

    Args:
        lr: α. Numbers, tensors, mappings and schedules: see `Setting`.
        betas: (β1, β2).
        weight_decay: λ, decoupled as in `adamw`.
        maximize: ascend; the weights still decay.

    Raises:
        ValueError: a number outside its range.

    Source: Chen et al. 2023, Algorithm 2.
    """
    beta1, beta2 = pair("lion", betas)
    settings = Settings(
        "lion",
        nonnegative={"lr": lr, "weight_decay": weight_decay},
        fractions={"beta1": beta1, "beta2": beta2},
    )

    def start(w: Tensor, at: At) -> LionMemory:
        return LionMemory(torch.zeros_like(w))

    def step(
        w: Tensor, g: Tensor, memory: LionMemory, k: Tensor, at: At
    ) -> tuple[Tensor, LionMemory]:
        c = at.beta1 * memory.m + (1 - at.beta1) * g
        m = at.beta2 * memory.m + (1 - at.beta2) * g
        return w - at.lr * torch.sign(c), LionMemory(m)

    return tensorwise(start, step, settings, decoupled=True, maximize=maximize)
