"""Functa: data as functions."""

from typing import Unpack

from torch.nn import functional as F

from raymeta.meta.cavia import cavia
from raymeta.meta.learner import Learner
from raymeta.meta.siren import Siren
from raymeta.meta.supervised import Inner, Loss, Options, require_known
from raymeta.optim import Optimizer, sgd
from raymeta.types import Tensors


def functa(
    module: Siren,
    *,
    loss: Loss = F.mse_loss,
    lr: float = 0.01,
    learn_lr: bool = True,
    optimizer: Inner | None = None,
    steps: int = 3,
    **options: Unpack[Options],
) -> Learner:
    r"""Fit each signal by few steps on a latent; learn the network and the step sizes.

    $$ \phi_0 = 0,\quad \phi_{t+1} = \phi_t - \alpha \circ \nabla_\phi
       L(f_\theta(x, \phi_t), y_i),\quad
       \min_{\theta, \alpha} \sum_i L(f_\theta(x, \phi_T), y_i) $$

    Support and query of a task are coordinates and values of one signal, the same ones
    in the paper.

    Args:
        module: called with coordinates and φ; or any module with an attribute `latent`,
            the length of φ.
        loss: see `maml`.
        lr: α.
        learn_lr: learn one α for each element of φ, by the meta-parameter "lr" of shape
            (latent,), as Meta-SGD.
        optimizer: the inner rule in place of SGD with α; see `maml`. φ is called
            "context".
        steps: T, the inner steps.
        **options: see `Options`.

    Raises:
        ValueError: the module has no `latent`; see `maml`.

    Source: Dupont et al. 2022, section 3.2 and appendix A.
    """
    require_known(functa, options)
    if not isinstance(getattr(module, "latent", None), int):
        raise ValueError(
            "functa needs a module that is called with coordinates and φ, and whose "
            f"attribute latent is the length of φ, but {type(module).__name__} has "
            "none: give raymeta.meta.Siren(…), or set it"
        )
    if optimizer is not None or not learn_lr:
        return cavia(
            module,
            loss=loss,
            context=module.latent,
            join="argument",
            optimizer=sgd(lr) if optimizer is None else optimizer,
            steps=steps,
            **options,
        )

    weight = next(module.parameters()).detach()

    def learnt(theta: Tensors) -> Optimizer:
        return sgd({"context": theta["lr"]})

    return cavia(
        module,
        loss=loss,
        context=module.latent,
        join="argument",
        optimizer=learnt,
        steps=steps,
        hyperparameters={"lr": weight.new_full((module.latent,), lr)},
        **options,
    )
