"""iMAML: MAML with implicit gradients."""

import math
from typing import Unpack

import torch
from torch import Tensor, nn

from raymeta.errors import require_arguments
from raymeta.hypergrad import ConjugateGradient, Implicit
from raymeta.hypergrad.linear_solvers import Solver
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


def imaml(
    module: nn.Module,
    *,
    loss: Loss,
    strength: float = 1.0,
    optimizer: Inner | None = None,
    steps: int = 16,
    solver: Solver | None = None,
    **options: Unpack[Options],
) -> Learner:
    r"""MAML that stays near θ, differentiated at its minimum rather than on the way.

    $$ \phi^* = \arg\min_\phi L(\phi, \mathrm{support}_i) +
       \frac\lambda2 \lVert \phi - \theta \rVert^2,\qquad
       \frac{d E_i}{d\theta} = \Big(I + \frac1\lambda
       \nabla^2 L(\phi^*, \mathrm{support}_i)\Big)^{-1}
       \nabla L(\phi^*, \mathrm{query}_i) $$

    Memory does not grow with T. The derivative is that of the minimum: as good as φ_T
    is one, and the linear system solved.

    Args:
        module: see `maml`.
        loss: see `maml`.
        strength: λ; where it is too small for the inner problem to be convex, the
            solver stops at the first negative curvature.
        optimizer: see `maml`; it has no hyperparameters to learn, as the minimum does
            not depend on them.
        steps: T, the inner steps.
        solver: solves the linear system; by default five conjugate gradients, whatever
            the residual they leave. It is the metric "residual" of a task.
        **options: see `Options`.

    Raises:
        ValueError: λ <= 0; and see `maml`. In training: see `Implicit`.

    Source: Rajeswaran et al. 2019, eq. 3-7 and Algorithm 2.
    """
    require_known(imaml, options)
    require_arguments(imaml, strength=strength, steps=steps, solver=solver)
    if not strength > 0:
        raise ValueError(f"imaml needs strength > 0, but got strength={strength}")
    network = network_of(module, options)

    def proximal(params: Tensors, theta: Tensors) -> Tensor:
        squares = [(phi - theta[name]).square().sum() for name, phi in params.items()]
        return strength / 2 * torch.stack(squares).sum()

    return adapting(
        module,
        network,
        list(network.weights),
        optimizer=optimizer,
        loss=loss,
        steps=steps,
        options=options,
        penalty=proximal,
        estimator=Implicit(steps, solver or ConjugateGradient(5, accept=math.inf)),
    )
