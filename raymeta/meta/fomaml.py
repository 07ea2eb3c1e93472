"""First-order MAML."""

from collections.abc import Mapping
from typing import Unpack

from torch import Tensor, nn

from raymeta.meta.learner import Learner, first_order
from raymeta.meta.maml import maml
from raymeta.meta.supervised import Inner, Loss, Options, require_known


def fomaml(
    module: nn.Module,
    *,
    loss: Loss,
    optimizer: Inner | None = None,
    steps: int = 1,
    hyperparameters: Mapping[str, Tensor] | None = None,
    **options: Unpack[Options],
) -> Learner:
    r"""MAML without second derivatives: the query's gradient at the adapted weights.

    $$ \theta \leftarrow \theta - \beta \sum_i
       \nabla_\phi L(\phi, \mathrm{query}_i)\big|_{\phi = \phi_T} $$

    That is its meta-gradient for SGD; memory and weight decay of other rules are
    differentiated. For any other algorithm: `first_order(learner)`.

    Args:
        module: see `maml`.
        loss: see `maml`.
        optimizer: see `maml`.
        steps: T, the inner steps.
        hyperparameters: see `maml`.
        **options: see `Options`.

    Raises:
        ValueError: see `maml`.

    Source: Finn et al. 2017, section 5.2; Nichol et al. 2018, section 2.
    """
    require_known(fomaml, options)
    exact = maml(
        module,
        loss=loss,
        optimizer=optimizer,
        steps=steps,
        hyperparameters=hyperparameters,
        **options,
    )
    return first_order(exact)
