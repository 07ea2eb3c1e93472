"""Stochastic gradient descent with momentum."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from raymeta.errors import require_flags
from raymeta.optim.base import HeavyBall, Maybe, Memory, Optimizer, tensorwise
from raymeta.optim.settings import At, Setting, Settings, is_zero
from raymeta.types import Tensors


class SGDMemory(NamedTuple):
    """What `sgd` keeps for one parameter.

    Attributes:
        velocity: the momentum buffer v, of its shape; `()` where the momentum is the
            plain number 0.
    """

    velocity: Maybe


def sgd(
    lr: Setting,
    *,
    momentum: Setting = 0.0,
    dampening: Setting = 0.0,
    weight_decay: Setting = 0.0,
    nesterov: bool = False,
    maximize: bool = False,
) -> Optimizer:
    r"""SGD as in `torch.optim.SGD`, differentiable in every setting.

    $$ v \leftarrow \mu v + (1 - \tau) g,\quad w \leftarrow w - \alpha v $$

    with $v = g$ at the first step, and $g + \mu v$ in place of $v$ for Nesterov.

    Args:
        lr: α. Numbers, tensors, mappings and schedules: see `Setting`.
        momentum: μ. The plain number 0 keeps no memory; a tensor keeps it at any value.
        dampening: τ.
        weight_decay: λ in $g \leftarrow g + \lambda w$, which comes first.
        nesterov: step along g + μ v; needs momentum and no dampening.
        maximize: ascend.

    Raises:
        ValueError: a negative number; Nesterov without momentum or with dampening.

    Source: Sutskever et al. 2013, eq. 1-4, in the variant of `torch.optim.SGD`: the
    learning rate multiplies v rather than g.
    """
    require_flags("sgd", nesterov=nesterov)
    if nesterov and (is_zero(momentum) or not is_zero(dampening)):
        raise ValueError(
            "sgd needs momentum and no dampening for nesterov=True, but got "
            f"momentum={momentum}, dampening={dampening}"
        )
    settings = Settings(
        "sgd",
        nonnegative={
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
        },
    )

    def start(w: Tensor, at: At) -> SGDMemory:
        return SGDMemory(() if is_zero(at.momentum) else torch.zeros_like(w))

    def step(
        w: Tensor, g: Tensor, memory: SGDMemory, k: Tensor, at: At
    ) -> tuple[Tensor, SGDMemory]:
        v = memory.velocity
        if isinstance(v, Tensor):
            damped = g
            if not is_zero(at.dampening):
                damped = (1 - at.dampening * (k > 1).to(k.dtype)) * g
            v = at.momentum * v + damped
            g = g + at.momentum * v if nesterov else v
        return w - at.lr * g, SGDMemory(v)

    rule = tensorwise(
        start, step, settings, maximize=maximize, stands_for="SGD", nesterov=nesterov
    )
    each = momentum.values() if isinstance(momentum, Mapping) else [momentum]
    if nesterov or any(is_zero(value) for value in each):
        return rule
    return rule._replace(heavy_ball=_heavy_ball(settings))


def _heavy_ball(settings: Settings) -> HeavyBall:
    def rates(t: Tensor) -> Callable[[str], tuple[float | Tensor, float | Tensor]]:
        at = settings.at(t)
        return lambda name: (at(name).lr, at(name).momentum)

    def memory(velocity: Tensors, t: Tensor) -> Memory:
        return Memory({name: SGDMemory(v) for name, v in velocity.items()}, t)

    def velocity(memory: Memory) -> Tensors:
        return {name: kept.velocity for name, kept in memory.slots.items()}

    return HeavyBall(rates, memory, velocity)
