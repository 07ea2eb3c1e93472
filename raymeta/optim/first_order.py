"""First-order updates: gradients are constants to whoever differentiates them."""

from __future__ import annotations

from torch import Tensor

from raymeta._tree import detach
from raymeta.optim.base import Optimizer
from raymeta.types import State, Tensors


def first_order(optimizer: Optimizer) -> Optimizer:
    r"""The same steps, with derivatives that leave second ones out.

    $$ w_{t+1} = w_t - \alpha\,\mathrm{stop}(g_t)
       \;\Rightarrow\; \frac{\partial w_{t+1}}{\partial w_t} = I $$

    Derivatives in the settings stay: with SGD $\partial w_{t+1}/\partial\alpha = -g_t$.

    Args:
        optimizer: takes the steps.

    Source: Finn et al. 2017, section 5.2: the first-order approximation.
    """

    def update(
        grads: Tensors, memory: State, params: Tensors, t: Tensor
    ) -> tuple[Tensors, State]:
        return optimizer.update(detach(grads), memory, params, t)

    recipe = optimizer.recipe
    if recipe is not None and recipe.update is optimizer.update:
        recipe = recipe._replace(update=update, first_order=True)
    return optimizer._replace(update=update, recipe=recipe)
