"""Reptile."""

from typing import Unpack

import torch
from torch import Tensor, nn

from raymeta._tree import detach, tree_map
from raymeta.data.episodes import Episode, Examples
from raymeta.errors import require_arguments
from raymeta.meta.learner import Learner
from raymeta.meta.supervised import (
    Inner,
    Loss,
    Options,
    network_of,
    require_known,
    rule_of,
    supervised,
)
from raymeta.meta.task_rng import TaskNoise
from raymeta.optim import sgd
from raymeta.problem import TrainState
from raymeta.types import Tensors


def reptile(
    module: nn.Module,
    *,
    loss: Loss,
    optimizer: Inner | None = None,
    steps: int = 5,
    batch_size: int | None = None,
    **options: Unpack[Options],
) -> Learner:
    r"""Move the initial weights towards those that training on a task leads to.

    $$ g_i = \theta - \phi_T,\qquad
       g_i = \nabla_\theta \tfrac12 \lVert \theta - \mathrm{stop}(\phi_T) \rVert^2 $$

    g is the meta-gradient that the outer optimizer gets; the loss that is reported is
    that of the query.

    Args:
        module: see `maml`.
        loss: see `maml`.
        optimizer: see `maml`; none of its settings is learnt.
        steps: T, the inner steps.
        batch_size: examples of the support that a step sees, in a random order and
            without those of weight 0; all of them by default.
        **options: see `Options`.

    Raises:
        ValueError: a batch of less than one example; and see `maml`.

    Source: Nichol et al. 2018, Algorithm 1 and section 5.2.
    """
    require_known(reptile, options)
    require_arguments(reptile, batch_size=batch_size, steps=steps)
    if batch_size is not None and batch_size < 1:
        raise ValueError(
            f"reptile needs batch_size >= 1, but got batch_size={batch_size}"
        )
    network = network_of(module, options)
    seed = options.get("seed", 0)

    def seen(task: Episode, theta: Tensors, t: Tensor) -> Examples:
        support = task.support
        if batch_size is None:
            return support
        keys = TaskNoise(seed, support, 0).uniform(support.weight.shape)
        # A random order, with padding behind the examples.
        order = torch.where(support.weight > 0, keys, 2.0).argsort()
        places = t * batch_size + torch.arange(batch_size, device=order.device)
        rows = order.index_select(0, places % (support.weight > 0).sum())
        return tree_map(lambda x: x.index_select(0, rows), support)

    def judge(value: Tensor, state: TrainState, theta: Tensors) -> Tensor:
        pairs = [(theta[name], phi) for name, phi in detach(state.params).items()]
        squares = [(w - phi).square().sum() for w, phi in pairs]
        distance = torch.stack(squares).sum() / 2
        return value.detach() + (distance - distance.detach())

    return supervised(
        network,
        meta=network.weights,
        loss=loss,
        optimizer=rule_of(
            sgd(0.01) if optimizer is None else optimizer, module, network.weights
        ),
        steps=steps,
        options=options,
        start=lambda theta, task: {
            name: theta[name].detach() for name in network.weights
        },
        seen=seen,
        judge=judge,
    )
