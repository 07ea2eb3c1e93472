"""MAML: model-agnostic meta-learning."""

from collections.abc import Mapping
from typing import Unpack

from torch import Tensor, nn

from raymeta.hypergrad import Estimator
from raymeta.meta.learner import Learner
from raymeta.meta.supervised import (
    Inner,
    Loss,
    Options,
    adapting,
    network_of,
    require_known,
)


def maml(
    module: nn.Module,
    *,
    loss: Loss,
    optimizer: Inner | None = None,
    steps: int = 1,
    hyperparameters: Mapping[str, Tensor] | None = None,
    estimator: Estimator | None = None,
    **options: Unpack[Options],
) -> Learner:
    r"""Learn the initial weights of a module, from which few steps learn a task.

    $$ \phi_0 = \theta,\quad
       \phi_{t+1} = \phi_t - \alpha \nabla_\phi L(\phi_t, \mathrm{support}_i),\quad
       \min_\theta \sum_i L(\phi_T, \mathrm{query}_i) $$

    Whatever else the inner optimizer needs may be learnt with them:

        maml(net, loss=mse_loss, hyperparameters={"log_lr": torch.tensor(0.01).log()},
             optimizer=lambda theta: sgd(theta["log_lr"].exp()))

    θ takes any value: what must stay positive is best learnt as its logarithm.

    Args:
        module: any; its present weights are the first θ. It is not changed.
        loss: (outputs, targets) -> the loss of a batch, shape (); of any kind, where
            all examples weigh 1. Where they do not, as where tasks of unequal sizes are
            padded, it must be a mean over examples: each is taken by itself, then their
            weighted mean (see `Examples`).
        optimizer: the inner rule of `raymeta.optim`, or θ -> a rule; or an optimizer of
            `torch.optim` for the module's parameters, or a `partial` of its class. By
            default SGD with a learning rate of 0.01.
        steps: T, the inner steps.
        hyperparameters: what else is in θ, by name.
        estimator: see `Learner`.
        **options: see `Options`.

    Raises:
        ValueError: nothing to train; a module, optimizer or hyperparameter that the
            engine cannot differentiate; steps below 1. From the first forward: a loss
            that is no mean where it must be; operators without a second derivative.

    Source: Finn et al. 2017, Algorithm 2.
    """
    require_known(maml, options)
    network = network_of(module, options)
    return adapting(
        module,
        network,
        list(network.weights),
        optimizer=optimizer,
        hyperparameters=hyperparameters,
        loss=loss,
        steps=steps,
        options=options,
        estimator=estimator,
    )
