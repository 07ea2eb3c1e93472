"""Gradient clipping, around any optimizer."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from raymeta.optim.base import Optimizer, as_real, safe_sqrt
from raymeta.optim.settings import Setting, Settings, Value
from raymeta.types import State, Tensors


def clip_by_norm(optimizer: Optimizer, max_norm: Value) -> Optimizer:
    r"""Scale the gradient down to a norm of at most θ before the step.

    $$ g \leftarrow g \min\Big(1, \frac{\theta}{\lVert g \rVert + 10^{-6}}\Big) $$

    where the norm is over all parameters. As `torch.nn.utils.clip_grad_norm_` followed
    by the step; differentiable in θ. Where it does not clip, θ's derivative is 0.

    Args:
        optimizer: takes the step.
        max_norm: θ; a number, a tensor, or a schedule.

    Raises:
        ValueError: a negative number; a mapping, since the norm is one for all.

    Source: Pascanu et al. 2013, Algorithm 1.
    """
    if isinstance(max_norm, Mapping):
        raise ValueError(
            "clip_by_norm needs one max_norm, as the norm is over all parameters, but "
            f"got a mapping from {sorted(max_norm)}: use clip_by_value for one each"
        )
    settings = Settings("clip_by_norm", nonnegative={"max_norm": max_norm})

    def update(
        grads: Tensors, memory: State, params: Tensors, t: Tensor
    ) -> tuple[Tensors, State]:
        squares = torch.stack([as_real(g).square().sum() for g in grads.values()])
        theta = settings.at(t)("").max_norm  # the same for any name
        scale = (theta / (safe_sqrt(squares.sum()) + 1e-6)).clamp(max=1.0)
        clipped = {name: (scale * g).to(g.dtype) for name, g in grads.items()}
        return optimizer.update(clipped, memory, params, t)

    return optimizer._replace(update=update)


def clip_by_value(optimizer: Optimizer, value: Setting) -> Optimizer:
    r"""Clip each element of the gradient to [-θ, θ] before the step.

    As `torch.nn.utils.clip_grad_value_` followed by the step; differentiable in θ.

    Args:
        optimizer: takes the step.
        value: θ. Numbers, tensors, mappings and schedules: see `Setting`.

    Raises:
        ValueError: a negative number. From `init`: complex weights.
    """
    settings = Settings("clip_by_value", nonnegative={"value": value})

    def init(params: Tensors) -> State:
        at = settings.at(torch.zeros((), dtype=torch.int64))
        for name, w in params.items():
            if w.is_complex():
                raise ValueError(
                    f"clip_by_value needs real weights, but {name!r} is {w.dtype}: use "
                    "clip_by_norm"
                )
            settings.require_fit(at(name), name, w.shape)
        return optimizer.init(params)

    def update(
        grads: Tensors, memory: State, params: Tensors, t: Tensor
    ) -> tuple[Tensors, State]:
        at, clipped = settings.at(t), {}
        for name, g in grads.items():
            theta = at(name).value
            clipped[name] = torch.clamp(g, -theta, theta)
        return optimizer.update(clipped, memory, params, t)

    return optimizer._replace(init=init, update=update)
