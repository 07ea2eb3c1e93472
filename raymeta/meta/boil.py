"""BOIL: body only in the inner loop."""

from collections.abc import Mapping, Sequence
from typing import Unpack

from torch import Tensor, nn

from raymeta.meta.anil import parts_of
from raymeta.meta.learner import Learner
from raymeta.meta.supervised import (
    Inner,
    Loss,
    Options,
    adapting,
    network_of,
    require_known,
)


def boil(
    module: nn.Module,
    *,
    head: str | Sequence[str],
    loss: Loss,
    optimizer: Inner | None = None,
    steps: int = 1,
    hyperparameters: Mapping[str, Tensor] | None = None,
    **options: Unpack[Options],
) -> Learner:
    r"""MAML whose inner loop leaves the head alone; all weights are meta-learnt.

    $$ \phi_0 = \theta_{\mathrm{body}},\quad \phi_{t+1} = \phi_t -
       \alpha \nabla_\phi L((\phi_t, \theta_{\mathrm{head}}), \mathrm{support}_i) $$

    Args:
        module: see `maml`.
        head: the name of what is not adapted, a parameter or a layer in the module, or
            several, for example "classifier".
        loss: see `maml`.
        optimizer: see `maml`.
        steps: T, the inner steps.
        hyperparameters: see `maml`.
        **options: see `Options`.

    Raises:
        ValueError: no trained parameter is in a head, or all are; and see `maml`.

    Source: Oh et al. 2021, eq. 3.
    """
    require_known(boil, options)
    network = network_of(module, options)
    left = parts_of(network.weights, head, "boil")
    adapted = [name for name in network.weights if name not in left]
    if not adapted:
        raise ValueError(
            f"boil needs weights besides the head to adapt, but got head={head!r} for "
            f"a module with {list(network.weights)}: name the last layer alone"
        )
    return adapting(
        module,
        network,
        adapted,
        optimizer=optimizer,
        hyperparameters=hyperparameters,
        loss=loss,
        steps=steps,
        options=options,
    )
