"""Meta-SGD."""

from typing import Unpack

import torch
from torch import nn

from raymeta.meta.learner import Learner
from raymeta.meta.maml import maml
from raymeta.meta.supervised import Loss, Options, network_of, require_known
from raymeta.optim import Optimizer, sgd
from raymeta.types import Tensors


def meta_sgd(
    module: nn.Module,
    *,
    loss: Loss,
    lr: float = 0.01,
    steps: int = 1,
    **options: Unpack[Options],
) -> Learner:
    r"""MAML that learns a learning rate for every weight, sign included.

    $$ \phi_{t+1} = \phi_t - \alpha \circ \nabla_\phi L(\phi_t, \mathrm{support}_i),
       \qquad \min_{\theta, \alpha} \sum_i L(\phi_T, \mathrm{query}_i) $$

    α of the weight `name` is the meta-parameter `lr.name`, of its shape.

    Args:
        module: see `maml`.
        loss: see `maml`.
        lr: every α at the start.
        steps: T, the inner steps; 1 in the paper.
        **options: see `Options`.

    Raises:
        ValueError: see `maml`.

    Source: Li et al. 2017, eq. 2-3 and Algorithm 1.
    """
    require_known(meta_sgd, options)
    weights = network_of(module, options).weights
    rates = {f"lr.{name}": torch.full_like(w, lr) for name, w in weights.items()}

    def optimizer(theta: Tensors) -> Optimizer:
        return sgd({name: theta[f"lr.{name}"] for name in weights})

    return maml(
        module,
        loss=loss,
        optimizer=optimizer,
        steps=steps,
        hyperparameters=rates,
        **options,
    )
