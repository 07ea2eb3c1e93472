"""Adjoint recursion of reverse mode, for runs whose graph is built piece by piece."""

import torch
from torch import Tensor

from raymeta.distributed.sharded import full
from raymeta.hypergrad.base import disconnected
from raymeta.types import Tensors


class Adjoint:
    r"""dE/ds_t and what dE/dλ has gathered, from the end of a run to its start.

    $$ g \mathrel{+}= \alpha_{t+1} B_{t+1},\qquad \alpha_t = \alpha_{t+1} A_{t+1} $$

    (Franceschi et al. 2017, Algorithm 1.)

    Args:
        outer_loss: E, shape ().
        leaves: λ by name.

    Attributes:
        alpha: dE/ds_t of each tensor of the state that was reached; None where E does
            not depend on it.
        g: what dE/dλ has gathered, in the order of `leaves`; None likewise.
    """

    def __init__(self, outer_loss: Tensor, leaves: Tensors) -> None:
        self._leaves = leaves
        self.alpha: list[Tensor | None] = [torch.ones_like(outer_loss)]
        self.g: list[Tensor | None] = [None] * len(leaves)

    def pull(self, ends: list[Tensor], state: list[Tensor]) -> None:
        """Go from α at the ends of a graph, E at first, to α at the state before."""
        pairs = [
            (end, alpha)
            for end, alpha in zip(ends, self.alpha, strict=True)
            if alpha is not None and end.requires_grad
        ]
        inputs = [*state, *self._leaves.values()]
        pulled: list[Tensor | None] = [None] * len(inputs)
        if pairs:
            ends, alphas = map(list, zip(*pairs, strict=True))
            pulled = list(torch.autograd.grad(ends, inputs, alphas, allow_unused=True))
        self.alpha, direct = pulled[: len(state)], pulled[len(state) :]
        self.g = [
            b if a is None else a if b is None else a + b
            for a, b in zip(self.g, direct, strict=True)
        ]

    def grads(self) -> Tensors:
        """dE/dλ, after the start of the run.

        Raises:
            ValueError: the outer loss does not depend on a hyperparameter.
        """
        found = dict(zip(self._leaves, self.g, strict=True))
        missing = [name for name, g in found.items() if g is None]
        if missing:
            raise disconnected(missing)
        return {name: full(g) for name, g in found.items() if g is not None}
