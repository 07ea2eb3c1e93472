"""ANIL: almost no inner loop."""

from collections.abc import Mapping, Sequence
from typing import Unpack

from torch import Tensor, nn

from raymeta.meta.learner import Learner
from raymeta.meta.supervised import (
    Inner,
    Loss,
    Options,
    adapting,
    network_of,
    require_known,
)
from raymeta.types import Tensors


def anil(
    module: nn.Module,
    *,
    head: str | Sequence[str],
    loss: Loss,
    optimizer: Inner | None = None,
    steps: int = 1,
    hyperparameters: Mapping[str, Tensor] | None = None,
    **options: Unpack[Options],
) -> Learner:
    r"""MAML whose inner loop adapts the head only; all weights are meta-learnt.

    $$ \phi_0 = \theta_{\mathrm{head}},\quad \phi_{t+1} = \phi_t -
       \alpha \nabla_\phi L((\theta_{\mathrm{body}}, \phi_t), \mathrm{support}_i) $$

    Args:
        module: see `maml`.
        head: the name of what is adapted, a parameter or a layer in the module, or
            several, for example "classifier".
        loss: see `maml`.
        optimizer: see `maml`.
        steps: T, the inner steps.
        hyperparameters: see `maml`.
        **options: see `Options`.

    Raises:
        ValueError: no trained parameter is in a head; and see `maml`.

    Source: Raghu et al. 2020, section 4.
    """
    require_known(anil, options)
    network = network_of(module, options)
    adapted = parts_of(network.weights, head, "anil")

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


def parts_of(weights: Tensors, parts: str | Sequence[str], algorithm: str) -> list[str]:
    """Names of the weights in layers of a module, or of weights themselves.

    Raises:
        ValueError: no trained parameter is in one of the parts.
    """
    found: list[str] = []
    for part in [parts] if isinstance(parts, str) else parts:
        inside = [n for n in weights if n == part or n.startswith(f"{part}.")]
        if not inside:
            raise ValueError(
                f"{algorithm} needs a head with parameters that are trained, but got "
                f"{part!r} for a module with {list(weights)}: name one, or a layer"
            )
        found += inside
    return found
