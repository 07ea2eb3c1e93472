"""Stochastic gradient descent with momentum."""

from typing import NamedTuple

import torch
from torch import Tensor

from raymeta.optim.base import (
    Optimizer,
    Setting,
    is_zero,
    require_range,
    setting_at,
    zeros_like,
)
from raymeta.types import Tensors


class SGDMemory(NamedTuple):
    """Memory of `sgd` with momentum.

    Attributes:
        velocity: the momentum buffer v, one tensor of the parameter's shape each.
        fresh: shape (); 1 before the first step, 0 after it.
    """

    velocity: Tensors
    fresh: Tensor


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

    $$ g \leftarrow g + \lambda w,\quad v \leftarrow \mu v + (1 - \tau) g,\quad
       w \leftarrow w - \alpha v $$

    with $v = g$ at the first step, and $g + \mu v$ in place of $v$ for Nesterov.

    Args:
        lr: α. Numbers, tensors, mappings and schedules: see `Setting`.
        momentum: μ. The plain number 0 keeps no memory; a tensor keeps it at any value.
        dampening: τ.
        weight_decay: λ.
        nesterov: step along g + μ v; needs momentum and no dampening.
        maximize: ascend.

    Raises:
        ValueError: a negative number; Nesterov without momentum or with dampening.

    Source: Sutskever et al. 2013, in the variant of `torch.optim.SGD`.
    """
    for name, setting in (("lr", lr), ("momentum", momentum), ("dampening", dampening)):
        require_range("sgd", name, setting, 0.0)
    require_range("sgd", "weight_decay", weight_decay, 0.0)
    if nesterov and (is_zero(momentum) or not is_zero(dampening)):
        raise ValueError(
            "sgd needs momentum and no dampening for nesterov=True, but got "
            f"momentum={momentum}, dampening={dampening}"
        )
    remembers = not is_zero(momentum)

    def init(params: Tensors) -> SGDMemory | tuple[()]:
        if not remembers:
            return ()
        some = next(iter(params.values()))
        return SGDMemory(zeros_like(params), torch.ones((), device=some.device))

    def update(
        grads: Tensors, memory: SGDMemory | tuple[()], params: Tensors, t: Tensor
    ) -> tuple[Tensors, SGDMemory | tuple[()]]:
        new_params, velocity = {}, {}
        for name, w in params.items():
            g = -grads[name] if maximize else grads[name]
            if not is_zero(weight_decay):
                g = g + setting_at(weight_decay, name, t) * w
            if isinstance(memory, SGDMemory):
                mu, tau = setting_at(momentum, name, t), setting_at(dampening, name, t)
                damped = (1 - tau * (1 - memory.fresh)) * g
                v = velocity[name] = mu * memory.velocity[name] + damped
                g = g + mu * v if nesterov else v
            new_params[name] = w - setting_at(lr, name, t) * g
        if isinstance(memory, SGDMemory):
            memory = SGDMemory(velocity, torch.zeros_like(memory.fresh))
        return new_params, memory

    return Optimizer(init, update)
