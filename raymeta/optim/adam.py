"""Adam."""

from typing import NamedTuple

import torch
from torch import Tensor

from raymeta.optim.base import (
    Optimizer,
    Setting,
    is_zero,
    require_range,
    safe_sqrt,
    setting_at,
    zeros_like,
)
from raymeta.types import Tensors


class AdamMemory(NamedTuple):
    """Memory of `adam`.

    Attributes:
        m: first-moment estimates, one tensor of the parameter's shape each.
        v: second-moment estimates, likewise.
        step: shape (); how many steps were taken.
    """

    m: Tensors
    v: Tensors
    step: Tensor


def adam(
    lr: Setting = 1e-3,
    *,
    betas: tuple[Setting, Setting] = (0.9, 0.999),
    eps: Setting = 1e-8,
    weight_decay: Setting = 0.0,
    maximize: bool = False,
) -> Optimizer:
    r"""Adam as in `torch.optim.Adam`, differentiable in every setting.

    $$ m \leftarrow \beta_1 m + (1-\beta_1) g,\quad
       v \leftarrow \beta_2 v + (1-\beta_2) g^2,\quad
       w \leftarrow w - \alpha \frac{m / (1-\beta_1^t)}
                                   {\sqrt{v / (1-\beta_2^t)} + \epsilon} $$

    with $g \leftarrow g + \lambda w$ first (L2 regularization).

    Args:
        lr: α. Numbers, tensors, mappings and schedules: see `Setting`.
        betas: (β1, β2).
        eps: ε, outside the square root.
        weight_decay: λ.
        maximize: ascend.

    Raises:
        ValueError: a number outside its range.

    Source: Kingma & Ba 2015, Algorithm 1. The derivative of √v at v = 0 is taken as 0.
    """
    for name, setting in (("lr", lr), ("eps", eps), ("weight_decay", weight_decay)):
        require_range("adam", name, setting, 0.0)
    for name, setting in zip(("beta1", "beta2"), betas, strict=True):
        require_range("adam", name, setting, 0.0, below=1.0)

    def init(params: Tensors) -> AdamMemory:
        some = next(iter(params.values()))
        step = torch.zeros((), dtype=torch.int64, device=some.device)
        return AdamMemory(zeros_like(params), zeros_like(params), step)

    def update(
        grads: Tensors, memory: AdamMemory, params: Tensors, t: Tensor
    ) -> tuple[Tensors, AdamMemory]:
        count = memory.step + 1
        new_params, m, v = {}, {}, {}
        for name, w in params.items():
            at = {
                "lr": setting_at(lr, name, t),
                "beta1": setting_at(betas[0], name, t),
                "beta2": setting_at(betas[1], name, t),
                "eps": setting_at(eps, name, t),
            }
            g = -grads[name] if maximize else grads[name]
            if not is_zero(weight_decay):
                g = g + setting_at(weight_decay, name, t) * w
            m[name] = at["beta1"] * memory.m[name] + (1 - at["beta1"]) * g
            v[name] = at["beta2"] * memory.v[name] + (1 - at["beta2"]) * g.square()
            power = count.to(w.dtype)
            m_hat = m[name] / (1 - at["beta1"] ** power)
            v_hat = v[name] / (1 - at["beta2"] ** power)
            new_params[name] = w - at["lr"] * m_hat / (safe_sqrt(v_hat) + at["eps"])
        return new_params, AdamMemory(m, v, count)

    return Optimizer(init, update)
