"""Rectified Adam."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from raymeta.optim.adam import adam_settings, root
from raymeta.optim.base import Optimizer, tensorwise
from raymeta.optim.settings import At, Setting


class RAdamMemory(NamedTuple):
    """What `radam` keeps for one parameter.

    Attributes:
        m: first-moment estimate, of its shape.
        v: second-moment estimate, likewise.
    """

    m: Tensor
    v: Tensor


def radam(
    lr: Setting = 1e-3,
    *,
    betas: tuple[Setting, Setting] = (0.9, 0.999),
    eps: Setting = 1e-8,
    weight_decay: Setting = 0.0,
    decoupled_weight_decay: bool = False,
    maximize: bool = False,
    eps_root: Setting = 0.0,
) -> Optimizer:
    r"""RAdam as in `torch.optim.RAdam`, differentiable in every setting.

    $$ \rho_\infty = \frac{2}{1-\beta_2} - 1,\quad
       \rho = \rho_\infty - \frac{2 k \beta_2^k}{1-\beta_2^k},\quad
       r^2 = \frac{(\rho-4)(\rho-2)\rho_\infty}{(\rho_\infty-4)(\rho_\infty-2)\rho} $$

    $$ w \leftarrow w - \alpha \frac{m}{1-\beta_1^k}
       \cdot \begin{cases} r \sqrt{1-\beta_2^k} / (\sqrt{v + \epsilon_r} + \epsilon)
       & \rho > 5 \\ 1 & \text{else} \end{cases} $$

    with the moments m and v of `adam`. The case depends on the step and on β2 alone;
    the derivative is that of the case which holds: the jump where a case begins has
    none.

    Args:
        lr: α. Numbers, tensors, mappings and schedules: see `Setting`.
        betas: (β1, β2).
        eps: ε, added to √v before the bias correction, unlike in `adam`.
        weight_decay: λ in $g \leftarrow g + \lambda w$, which comes first.
        decoupled_weight_decay: $w \leftarrow w - \alpha\lambda w$ instead.
        maximize: ascend.
        eps_root: ε_r, see `adam`; like ε, before the bias correction.

    Raises:
        ValueError: a number outside its range.

    Source: Liu et al. 2020, Algorithm 2, with torch's ρ > 5 for the paper's ρ > 4. The
    derivative of √v at v = 0 is taken as 0.
    """

    def start(w: Tensor, at: At) -> RAdamMemory:
        return RAdamMemory(torch.zeros_like(w), torch.zeros_like(w))

    def step(
        w: Tensor, g: Tensor, memory: RAdamMemory, k: Tensor, at: At
    ) -> tuple[Tensor, RAdamMemory]:
        m = at.beta1 * memory.m + (1 - at.beta1) * g
        v = at.beta2 * memory.v + (1 - at.beta2) * g.square()
        m_hat = m / (1 - at.beta1**k)
        rectified, r = _rectification(at.beta2, k)
        adaptive = r * (1 - at.beta2**k) ** 0.5 / (root(v, at) + at.eps)
        w = w - at.lr * m_hat * torch.where(rectified, adaptive, 1.0)
        return w, RAdamMemory(m, v)

    return tensorwise(
        start,
        step,
        adam_settings("radam", lr, betas, eps, weight_decay, eps_root),
        decoupled=decoupled_weight_decay,
        maximize=maximize,
    )


def _rectification(beta2: float | Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """(ρ > 5, r where that holds)."""
    rho_inf = 2 / (1 - beta2 * torch.ones_like(k)) - 1
    rho = rho_inf - 2 * k * beta2**k / (1 - beta2**k)
    rectified = rho > 5
    # Elsewhere r has poles and negative radicands, whose derivatives would be NaN.
    rho, rho_inf = rho.clamp(min=5.0), rho_inf.clamp(min=5.0)
    square = (rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho)
    return rectified, square.sqrt()
