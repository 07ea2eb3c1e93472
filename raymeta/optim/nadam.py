"""Adam with Nesterov momentum."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from raymeta.optim.adam import adam_settings, root
from raymeta.optim.base import Optimizer, tensorwise
from raymeta.optim.settings import At, Setting


class NAdamMemory(NamedTuple):
    """What `nadam` keeps for one parameter.

    Attributes:
        m: first-moment estimate, of its shape.
        v: second-moment estimate, likewise.
        mu_product: ∏ μ_i over the steps taken; shape (), or the parameter's for
            elementwise β1 or momentum decay.
    """

    m: Tensor
    v: Tensor
    mu_product: Tensor


def nadam(
    lr: Setting = 2e-3,
    *,
    betas: tuple[Setting, Setting] = (0.9, 0.999),
    eps: Setting = 1e-8,
    weight_decay: Setting = 0.0,
    momentum_decay: Setting = 4e-3,
    decoupled_weight_decay: bool = False,
    maximize: bool = False,
    eps_root: Setting = 0.0,
) -> Optimizer:
    r"""NAdam as in `torch.optim.NAdam`, differentiable in every setting.

    $$ \mu_k = \beta_1 (1 - \tfrac12 0.96^{k\psi}),\qquad
       \hat m = \frac{(1 - \mu_k)\, g}{1 - \prod_{i \le k} \mu_i}
              + \frac{\mu_{k+1}\, m}{1 - \prod_{i \le k+1} \mu_i},\qquad
       w \leftarrow w - \alpha \frac{\hat m}
       {\sqrt{v / (1-\beta_2^k) + \epsilon_r} + \epsilon} $$

    with the moments m and v of `adam`.

    Args:
        lr: α. Numbers, tensors, mappings and schedules: see `Setting`.
        betas: (β1, β2).
        eps: ε, outside the square root.
        weight_decay: λ in $g \leftarrow g + \lambda w$, which comes first.
        momentum_decay: ψ.
        decoupled_weight_decay: $w \leftarrow w - \alpha\lambda w$ instead.
        maximize: ascend.
        eps_root: ε_r, see `adam`.

    Raises:
        ValueError: a number outside its range.

    Source: Dozat 2016, Algorithm 2, with the momentum schedule μ_k of `torch.optim`.
    The derivative of √v at v = 0 is taken as 0.
    """

    def start(w: Tensor, at: At) -> NAdamMemory:
        shapes = (torch.as_tensor(x).shape for x in (at.beta1, at.momentum_decay))
        one = w.new_ones(torch.broadcast_shapes(*shapes))
        return NAdamMemory(torch.zeros_like(w), torch.zeros_like(w), one)

    def step(
        w: Tensor, g: Tensor, memory: NAdamMemory, k: Tensor, at: At
    ) -> tuple[Tensor, NAdamMemory]:
        mu = at.beta1 * (1 - 0.5 * 0.96 ** (k * at.momentum_decay))
        mu_next = at.beta1 * (1 - 0.5 * 0.96 ** ((k + 1) * at.momentum_decay))
        product = memory.mu_product * mu
        m = at.beta1 * memory.m + (1 - at.beta1) * g
        v = at.beta2 * memory.v + (1 - at.beta2) * g.square()
        v_hat = v / (1 - at.beta2**k)
        m_hat = (1 - mu) / (1 - product) * g + mu_next / (1 - product * mu_next) * m
        w = w - at.lr * m_hat / (root(v_hat, at) + at.eps)
        return w, NAdamMemory(m, v, product)

    return tensorwise(
        start,
        step,
        adam_settings(
            "nadam",
            lr,
            betas,
            eps,
            weight_decay,
            eps_root,
            momentum_decay=momentum_decay,
        ),
        decoupled=decoupled_weight_decay,
        maximize=maximize,
    )
