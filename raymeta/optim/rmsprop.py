"""RMSprop."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from raymeta.optim.base import Maybe, Optimizer, safe_sqrt, tensorwise
from raymeta.optim.settings import At, Setting, Settings, is_zero


class RMSpropMemory(NamedTuple):
    """What `rmsprop` keeps for one parameter.

    Attributes:
        v: running mean of g², of its shape.
        mean: running mean of g, likewise; `()` unless centered.
        velocity: the momentum buffer, likewise; `()` where the momentum is the plain
            number 0.
    """

    v: Tensor
    mean: Maybe
    velocity: Maybe


def rmsprop(
    lr: Setting = 1e-2,
    *,
    alpha: Setting = 0.99,
    eps: Setting = 1e-8,
    weight_decay: Setting = 0.0,
    momentum: Setting = 0.0,
    centered: bool = False,
    maximize: bool = False,
) -> Optimizer:
    r"""RMSprop as in `torch.optim.RMSprop`, differentiable in every setting.

    $$ v \leftarrow \alpha v + (1-\alpha) g^2,\quad
       u \leftarrow \mu u + \frac{g}{\sqrt{v} + \epsilon},\quad
       w \leftarrow w - \eta u $$

    with $v - \bar g^2$ in place of $v$ in the root if centered, where
    $\bar g \leftarrow \alpha \bar g + (1-\alpha) g$.

    Args:
        lr: η. Numbers, tensors, mappings and schedules: see `Setting`.
        alpha: α.
        eps: ε, outside the square root.
        weight_decay: λ in $g \leftarrow g + \lambda w$, which comes first.
        momentum: μ. The plain number 0 keeps no buffer; a tensor keeps it at any value.
        centered: divide by the gradient's standard deviation.
        maximize: ascend.

    Raises:
        ValueError: a number outside its range.

    Source: Tieleman & Hinton 2012, lecture 6.5; centered: Graves 2013, eq. 38-41. The
    derivative of a root at 0 is taken as 0; a variance that rounding makes negative
    counts as 0 (NaN in `torch.optim`).
    """
    settings = Settings(
        "rmsprop",
        nonnegative={
            "lr": lr,
            "eps": eps,
            "weight_decay": weight_decay,
            "momentum": momentum,
        },
        fractions={"alpha": alpha},
    )

    def start(w: Tensor, at: At) -> RMSpropMemory:
        return RMSpropMemory(
            v=torch.zeros_like(w),
            mean=torch.zeros_like(w) if centered else (),
            velocity=() if is_zero(at.momentum) else torch.zeros_like(w),
        )

    def step(
        w: Tensor, g: Tensor, memory: RMSpropMemory, k: Tensor, at: At
    ) -> tuple[Tensor, RMSpropMemory]:
        v = at.alpha * memory.v + (1 - at.alpha) * g.square()
        variance, mean, velocity = v, memory.mean, memory.velocity
        if isinstance(mean, Tensor):
            mean = at.alpha * mean + (1 - at.alpha) * g
            variance = v - mean.square()
        u = g / (safe_sqrt(variance) + at.eps)
        if isinstance(velocity, Tensor):
            u = velocity = at.momentum * velocity + u
        return w - at.lr * u, RMSpropMemory(v, mean, velocity)

    return tensorwise(
        start,
        step,
        settings,
        maximize=maximize,
        stands_for="RMSprop",
        centered=centered,
    )
