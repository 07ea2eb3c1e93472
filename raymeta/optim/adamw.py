"""Adam with decoupled weight decay."""

from __future__ import annotations

from raymeta.optim.adam import adam_settings, adam_start, adam_step
from raymeta.optim.base import Optimizer, tensorwise
from raymeta.optim.settings import Setting


def adamw(
    lr: Setting = 1e-3,
    *,
    betas: tuple[Setting, Setting] = (0.9, 0.999),
    eps: Setting = 1e-8,
    weight_decay: Setting = 1e-2,
    amsgrad: bool = False,
    maximize: bool = False,
    eps_root: Setting = 0.0,
) -> Optimizer:
    r"""AdamW as in `torch.optim.AdamW`, differentiable in every setting.

    $$ w \leftarrow w - \alpha \lambda w - \alpha \frac{m / (1-\beta_1^k)}
                             {\sqrt{v / (1-\beta_2^k) + \epsilon_r} + \epsilon} $$

    with the moments m and v of `adam`: weight decay does not enter them.

    Args:
        lr: α. Numbers, tensors, mappings and schedules: see `Setting`.
        betas: (β1, β2).
        eps: ε, outside the square root.
        weight_decay: λ; the learning rate multiplies it too.
        amsgrad: see `adam`.
        maximize: ascend; the weights still decay.
        eps_root: ε_r, see `adam`.

    Raises:
        ValueError: a number outside its range.

    Source: Loshchilov & Hutter 2019, Algorithm 2, with α for the paper's η α and α λ
    for its η λ, as in `torch.optim`.
    """
    return tensorwise(
        lambda w, at: adam_start(w, amsgrad),
        adam_step,
        adam_settings("adamw", lr, betas, eps, weight_decay, eps_root),
        decoupled=True,
        maximize=maximize,
        amsgrad=amsgrad,
    )
