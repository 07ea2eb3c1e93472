"""Adadelta."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from raymeta.optim.base import Optimizer, safe_sqrt, tensorwise
from raymeta.optim.settings import At, Setting, Settings


class AdadeltaMemory(NamedTuple):
    """What `adadelta` keeps for one parameter.

    Attributes:
        v: running mean of g², of its shape.
        u: running mean of Δ², likewise.
    """

    v: Tensor
    u: Tensor


def adadelta(
    lr: Setting = 1.0,
    *,
    rho: Setting = 0.9,
    eps: Setting = 1e-6,
    weight_decay: Setting = 0.0,
    maximize: bool = False,
) -> Optimizer:
    r"""Adadelta as in `torch.optim.Adadelta`, differentiable in every setting.

    $$ v \leftarrow \rho v + (1-\rho) g^2,\quad
       \Delta = \frac{\sqrt{u + \epsilon}}{\sqrt{v + \epsilon}}\, g,\quad
       u \leftarrow \rho u + (1-\rho) \Delta^2,\quad w \leftarrow w - \alpha \Delta $$

    Args:
        lr: α. Numbers, tensors, mappings and schedules: see `Setting`.
        rho: ρ.
        eps: ε, inside the square roots: at 0 nothing ever moves.
        weight_decay: λ in $g \leftarrow g + \lambda w$, which comes first.
        maximize: ascend.

    Raises:
        ValueError: a number outside its range.

    Source: Zeiler 2012, Algorithm 1. The derivative of a root at 0 is taken as 0.
    """
    settings = Settings(
        "adadelta",
        nonnegative={"lr": lr, "eps": eps, "weight_decay": weight_decay},
        fractions={"rho": rho},
    )

    def start(w: Tensor, at: At) -> AdadeltaMemory:
        return AdadeltaMemory(torch.zeros_like(w), torch.zeros_like(w))

    def step(
        w: Tensor, g: Tensor, memory: AdadeltaMemory, k: Tensor, at: At
    ) -> tuple[Tensor, AdadeltaMemory]:
        v = at.rho * memory.v + (1 - at.rho) * g.square()
        delta = safe_sqrt(memory.u + at.eps) / safe_sqrt(v + at.eps) * g
        u = at.rho * memory.u + (1 - at.rho) * delta.square()
        return w - at.lr * delta, AdadeltaMemory(v, u)

    return tensorwise(start, step, settings, maximize=maximize, stands_for="Adadelta")
