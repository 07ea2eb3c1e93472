"""Adam and AMSGrad."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from raymeta.errors import said
from raymeta.optim.base import Maybe, Optimizer, safe_sqrt, tensorwise
from raymeta.optim.settings import At, Setting, Settings, is_zero


class AdamMemory(NamedTuple):
    """What `adam` and `adamw` keep for one parameter.

    Attributes:
        m: first-moment estimate, of its shape.
        v: second-moment estimate, likewise.
        v_max: the largest v so far; `()` without AMSGrad.
    """

    m: Tensor
    v: Tensor
    v_max: Maybe


def adam(
    lr: Setting = 1e-3,
    *,
    betas: tuple[Setting, Setting] = (0.9, 0.999),
    eps: Setting = 1e-8,
    weight_decay: Setting = 0.0,
    amsgrad: bool = False,
    decoupled_weight_decay: bool = False,
    maximize: bool = False,
    eps_root: Setting = 0.0,
) -> Optimizer:
    r"""Adam as in `torch.optim.Adam`, differentiable in every setting.

    $$ m \leftarrow \beta_1 m + (1-\beta_1) g,\quad
       v \leftarrow \beta_2 v + (1-\beta_2) g^2,\quad
       w \leftarrow w - \alpha \frac{m / (1-\beta_1^k)}
                                   {\sqrt{v / (1-\beta_2^k) + \epsilon_r} + \epsilon} $$

    Args:
        lr: α. Numbers, tensors, mappings and schedules: see `Setting`.
        betas: (β1, β2).
        eps: ε, outside the square root.
        weight_decay: λ in $g \leftarrow g + \lambda w$, which comes first.
        amsgrad: divide by the largest v so far: v_max ← max(v_max, v). At a tie its
            derivative is the mean of both.
        decoupled_weight_decay: see `adamw`.
        maximize: ascend.
        eps_root: ε_r, added within the square root: the derivative of √v, which grows
            without bound as gradients vanish, is then at most 1 / (2 √ε_r).
            `torch.optim` has none.

    Raises:
        ValueError: a number outside its range.

    Source: Kingma & Ba 2015, Algorithm 1; Reddi et al. 2018, Algorithm 2, with the
    bias correction of `torch.optim`. The derivative of √v at v = 0 is taken as 0.
    """
    return tensorwise(
        lambda w, at: adam_start(w, amsgrad),
        adam_step,
        adam_settings("adam", lr, betas, eps, weight_decay, eps_root),
        decoupled=decoupled_weight_decay,
        maximize=maximize,
        stands_for="Adam",
        amsgrad=amsgrad,
    )


def adam_settings(
    optimizer: str,
    lr: Setting,
    betas: tuple[Setting, Setting],
    eps: Setting,
    weight_decay: Setting,
    eps_root: Setting,
    **nonnegative: Setting,
) -> Settings:
    """The settings that all of Adam's family has, and further ones.

    Raises:
        ValueError: betas are no pair; see `Settings`.
    """
    beta1, beta2 = pair(optimizer, betas)
    return Settings(
        optimizer,
        nonnegative={
            "lr": lr,
            "eps": eps,
            "weight_decay": weight_decay,
            "eps_root": eps_root,
            **nonnegative,
        },
        fractions={"beta1": beta1, "beta2": beta2},
    )


def pair(optimizer: str, betas: Any) -> tuple[Setting, Setting]:
    """(β1, β2).

    Raises:
        ValueError: it is no pair.
    """
    try:
        beta1, beta2 = betas
    except (TypeError, ValueError):
        raise ValueError(
            f"{optimizer} needs betas=(β1, β2), but got betas={said(betas)}"
        ) from None
    return beta1, beta2


def adam_start(w: Tensor, amsgrad: bool) -> AdamMemory:
    """No moments yet."""
    v_max = torch.zeros_like(w) if amsgrad else ()
    return AdamMemory(torch.zeros_like(w), torch.zeros_like(w), v_max)


def adam_step(
    w: Tensor, g: Tensor, memory: AdamMemory, k: Tensor, at: At
) -> tuple[Tensor, AdamMemory]:
    """Step k, without weight decay; AMSGrad where the memory has a v_max."""
    m = at.beta1 * memory.m + (1 - at.beta1) * g
    v = at.beta2 * memory.v + (1 - at.beta2) * g.square()
    v_max = memory.v_max
    if isinstance(v_max, Tensor):
        v_max = torch.maximum(v_max, v)
    m_hat = m / (1 - at.beta1**k)
    v_hat = (v_max if isinstance(v_max, Tensor) else v) / (1 - at.beta2**k)
    w = w - at.lr * m_hat / (root(v_hat, at) + at.eps)
    return w, AdamMemory(m, v, v_max)


def root(v: Tensor, at: At) -> Tensor:
    """√(v + ε_r)."""
    return safe_sqrt(v if is_zero(at.eps_root) else v + at.eps_root)
