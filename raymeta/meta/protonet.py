"""Prototypical networks: classes as the means of what examples are embedded to."""

from dataclasses import replace
from typing import Any, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raymeta.data.episodes import Episode
from raymeta.errors import require_arguments
from raymeta.meta.learner import Learner
from raymeta.meta.supervised import (
    Inner,
    Loss,
    Options,
    labelled,
    network_of,
    require_known,
    rule_of,
    supervised,
)
from raymeta.meta.task_rng import TaskNoise
from raymeta.meta.weighted import without_padding
from raymeta.optim import sgd
from raymeta.types import Tensors


def protonet(
    module: nn.Module,
    *,
    ways: int,
    loss: Loss = F.cross_entropy,
    optimizer: Inner | None = None,
    steps: int = 0,
    **options: Unpack[Options],
) -> Learner:
    r"""Classes by the nearest mean of embedded support examples; learn the embedding.

    $$ c_k = \frac{\sum_j w_j [y_j = k]\, f_\theta(x_j)}{\sum_j w_j [y_j = k]},\qquad
       p(y = k \mid x) \propto \exp(-\lVert f_\theta(x) - c_k \rVert^2) $$

    The state of a task is its prototypes, "prototypes" of shape (ways, d), which
    minimize the squared distances to them: no step follows, in the paper.

    Args:
        module: the embedding f, (n, ...) -> (n, d); more dimensions are flattened.
        ways: classes of a task; targets are 0 … ways - 1. Of a class without an example
            nothing is.
        loss: (outputs, targets) -> shape (), of outputs -‖f(x) - c_k‖², shape
            (n, ways).
        optimizer: of `steps`; see `maml`. SGD with a learning rate of 0.01 by default.
        steps: T, inner steps on the prototypes that follow.
        **options: see `Options`.

    Raises:
        ValueError: fewer than one class; steps below 0; and see `maml`.

    Source: Snell et al. 2017, eq. 1 and 2; Triantafillou et al. 2020, section 3.2, for
    steps that follow.
    """
    require_known(protonet, options)
    require_arguments(protonet, ways=ways, steps=steps)
    if ways < 1:
        raise ValueError(f"protonet needs ways >= 1, but got ways={ways}")
    network, seed = network_of(module, options), options.get("seed", 0)

    def prototypes(theta: Tensors, task: Episode) -> Tensors:
        support = without_padding(labelled("support", task.support))
        given: Any = support.inputs
        inputs = given if isinstance(given, tuple) else (given,)
        first = torch.tensor(0, device=support.weight.device)
        noise = TaskNoise(seed, task, first)
        embedded = network.judge(theta, network.buffers(theta), inputs, noise)
        classes = torch.arange(ways, device=support.targets.device)
        member = (support.targets[:, None] == classes) * support.weight[:, None]
        member = member.to(embedded.dtype)
        total, count = member.T @ embedded.flatten(1), member.sum(0)[:, None]
        # NaN outside of the quotient, whose derivative would be NaN for all weights.
        mean = total / torch.where(count > 0, count, 1.0)
        return {"prototypes": torch.where(count > 0, mean, torch.nan)}

    learner = supervised(
        network,
        meta=network.weights,
        loss=loss,
        optimizer=rule_of(sgd(0.01) if optimizer is None else optimizer),
        steps=max(steps, 1),
        options=options,
        start=prototypes,
        outputs_of=lambda params, embedded: closeness(embedded, params["prototypes"]),
        alone=lambda net, params: NearestPrototype(net, params["prototypes"]),
    )
    return replace(learner, steps=steps)


def closeness(embedded: Tensor, prototypes: Tensor) -> Tensor:
    """-‖f(x) - c_k‖², shape (n, ways); -inf for classes of which nothing is known."""
    known = prototypes.isfinite().all(1)
    there = torch.where(known[:, None], prototypes, 0.0)
    distance = (embedded.flatten(1)[:, None] - there).square().sum(-1)
    return torch.where(known, -distance, -torch.inf)


class NearestPrototype(nn.Module):
    """A classifier by prototypes, of one task: it is called with the inputs alone.

    Args:
        module: the embedding.
        prototypes: c, shape (ways, d).
    """

    def __init__(self, module: nn.Module, prototypes: Tensor) -> None:
        super().__init__()
        self.module = module
        self.register_buffer("prototypes", prototypes.detach().clone())
        self.train(module.training)

    def forward(self, *inputs: Any) -> Tensor:
        """Scores of the classes, shape (n, ways)."""
        return closeness(self.module(*inputs), self.get_buffer("prototypes"))
