"""CAVIA: fast context adaptation."""

from collections.abc import Mapping
from typing import Any, Literal, Unpack

import torch
from torch import Tensor, nn

from raymeta.errors import require_arguments, unknown_name
from raymeta.meta.learner import Learner
from raymeta.meta.supervised import (
    Inner,
    Loss,
    Options,
    network_of,
    require_known,
    rule_of,
    supervised,
    with_hyperparameters,
)
from raymeta.optim import sgd
from raymeta.types import Tensors

JOINS = ("input", "argument")


def cavia(
    module: nn.Module,
    *,
    loss: Loss,
    context: int,
    join: Literal["input", "argument"] = "input",
    optimizer: Inner | None = None,
    steps: int = 1,
    hyperparameters: Mapping[str, Tensor] | None = None,
    clamp: float | None = None,
    **options: Unpack[Options],
) -> Learner:
    r"""Adapt a context that is an input of the module; learn the weights.

    $$ \phi_0 = 0,\quad \phi_{t+1} = \phi_t -
       \alpha \nabla_\phi L(\mathrm{net}_\theta(x, \phi_t), \mathrm{support}_i),\quad
       \min_\theta \sum_i L(\mathrm{net}_\theta(x, \phi_T), \mathrm{query}_i) $$

    Args:
        module: called with the inputs and φ; its weights are θ.
        loss: see `maml`.
        context: how many context parameters.
        join: "input" puts φ behind the last dimension of the (one) input, (n, ..., d)
            -> (n, ..., d + context); "argument" calls `module(*inputs, φ)` with φ of
            shape (context,).
        optimizer: see `maml`; SGD with a learning rate of 1 by default. φ is called
            "context".
        steps: T, the inner steps.
        hyperparameters: see `maml`.
        clamp: bound on the elements of each task's meta-gradient, before the mean over
            tasks. The authors' code has 10; it biases the mean.
        **options: see `Options`.

    Raises:
        ValueError: no context parameters; an unknown join; and see `maml`.

    Source: Zintgraf et al. 2019, Algorithm 1 and eq. 3-4.
    """
    require_known(cavia, options)
    require_arguments(cavia, context=context, clamp=clamp)
    if context < 1:
        raise ValueError(f"cavia needs context >= 1, but got context={context}")
    if join not in JOINS:
        raise unknown_name("join", join, JOINS)
    network = network_of(module, options)
    some = next(iter(network.weights))

    def arguments(params: Tensors, inputs: tuple) -> tuple:
        return joined(inputs, params["context"], join)

    def clamped(grads: Tensors) -> Tensors:
        assert clamp is not None
        return {name: g.clamp(-clamp, clamp) for name, g in grads.items()}

    return supervised(
        network,
        meta=with_hyperparameters(network.weights, hyperparameters),
        loss=loss,
        optimizer=rule_of(sgd(1.0) if optimizer is None else optimizer),
        steps=steps,
        options=options,
        start=lambda theta, task: {"context": theta[some].new_zeros(context)},
        arguments=arguments,
        transform=None if clamp is None else clamped,
        alone=lambda net, params: WithContext(net, params["context"], join),
    )


def joined(inputs: tuple, phi: Tensor, join: str) -> tuple:
    """What a module is called with, of its inputs and a context φ."""
    if join == "argument":
        return (*inputs, phi)
    (x,) = inputs
    return (torch.cat([x, phi.expand(*x.shape[:-1], len(phi))], -1),)


class WithContext(nn.Module):
    """A module whose context is found: it is called with the inputs alone.

    Args:
        module: what is called with inputs and φ.
        context: φ, shape (context,).
        join: see `cavia`.
    """

    def __init__(self, module: nn.Module, context: Tensor, join: str) -> None:
        super().__init__()
        self.module, self.join = module, join
        self.register_buffer("context", context.detach().clone())
        self.train(module.training)

    def forward(self, *inputs: Any) -> Any:
        """What the module says of inputs in this context."""
        return self.module(*joined(inputs, self.get_buffer("context"), self.join))
