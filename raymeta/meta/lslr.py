"""LSLR: learning rates for every layer and step."""

from typing import Unpack

from torch import nn

from raymeta.meta.learner import Learner
from raymeta.meta.maml import maml
from raymeta.meta.supervised import Loss, Options, network_of, require_known
from raymeta.optim import Optimizer, Schedule, sgd
from raymeta.types import Tensors


def lslr(
    module: nn.Module,
    *,
    loss: Loss,
    lr: float = 0.01,
    steps: int = 5,
    **options: Unpack[Options],
) -> Learner:
    r"""MAML that learns a learning rate for every layer and inner step.

    $$ \phi_{t+1}^{(l)} = \phi_t^{(l)} -
       \alpha_t^{(l)} \nabla_{\phi^{(l)}} L(\phi_t, \mathrm{support}_i) $$

    α of a layer is the meta-parameter `lr.layer`, shape (T,); a parameter of the module
    itself is a layer of its own. Steps beyond T, in evaluation, go on with the last.

    Args:
        module: see `maml`.
        loss: see `maml`.
        lr: every α at the start.
        steps: T, the inner steps.
        **options: see `Options`.

    Raises:
        ValueError: see `maml`.

    Source: Antoniou et al. 2019 (MAML++), section 4: learning per-layer per-step
    learning rates.
    """
    require_known(lslr, options)
    weights = network_of(module, options).weights
    layers = dict.fromkeys(name.rpartition(".")[0] or name for name in weights)
    some = next(iter(weights.values()))
    rates = {f"lr.{layer}": some.new_full((steps,), lr) for layer in layers}

    def optimizer(theta: Tensors) -> Optimizer:
        return sgd({layer: Schedule(theta[f"lr.{layer}"]) for layer in layers})

    return maml(
        module,
        loss=loss,
        optimizer=optimizer,
        steps=steps,
        hyperparameters=rates,
        **options,
    )
