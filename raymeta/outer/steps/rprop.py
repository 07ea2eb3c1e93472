"""Resilient propagation: steps by the signs of the hypergradient."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class RpropState(NamedTuple):
    """State of `Rprop` between two points.

    Attributes:
        lengths: Δ, of the next step along each of the k directions, shape (k,).
        slopes: q at the last point, shape (k,).
        taken: how many gradients were taken in.
    """

    lengths: Tensor
    slopes: Tensor
    taken: int


@dataclass(frozen=True)
class Rprop:
    r"""Steps against the signs of a gradient, with a length for every direction.

    Directions are the coordinates and, for every tensor S of coordinates, the shift of
    all of them together: hundreds of learning rates that are all too small should not
    have to find that out one by one.

    $$ D = (I,\ 1_{S_1},\ 1_{S_2},\ \ldots),\quad q = D^\top \nabla E,\quad
       s = -D\,(\Delta \odot \operatorname{sign} q) $$

    From one point to the next $\Delta_i$ grows by 1.5 where $q_i$ kept its sign and
    halves where it changed. Only signs enter, so the scale of E does not matter, even
    if its gradient explodes, and the first length soon does not.

    Attributes:
        length: how far the first step moves every coordinate; no step moves one by
            more than that, or 1.5 where that is more. Elements of a tensor go half of
            it by themselves, half of it together: those whose sign is that of the
            tensor's sum all of it, the others nothing at first.
        tensors: slices of coordinates that are the elements of one tensor.

    Source: Riedmiller & Braun 1993, with a larger growth, for a point costs a whole
    training run. The shared directions are raymeta's own.
    """

    length: float
    tensors: Sequence[slice] = ()

    GROW, SHRINK, RETREAT = 1.5, 0.5, 0.35
    #: A step is grown to this at most: a factor of 4.5 in a positive hyperparameter.
    LONGEST = 1.5

    def init(self, x: Tensor) -> RpropState:
        """The state before the first gradient; x has shape (n,)."""
        lengths = x.new_full((len(x) + len(self.tensors),), self.length)
        for part in (*self.tensors, slice(len(x), None)):
            lengths[part] = self.length / 2
        return RpropState(lengths, torch.zeros_like(lengths), 0)

    def update(self, gradient: Tensor, state: RpropState) -> RpropState:
        """The state at a new point to step from, where dE/dx is `gradient`."""
        lengths, slopes = state.lengths, self._along(gradient)
        if state.taken:
            grown = torch.minimum(lengths * self.GROW, lengths.clamp(min=self.LONGEST))
            flipped = slopes * state.slopes < 0
            lengths = torch.where(flipped, lengths * self.SHRINK, grown)
        return RpropState(lengths, slopes, state.taken + 1)

    def retreat(self, gradient: Tensor, state: RpropState) -> RpropState:
        """The state whose step is shorter where a step's end has another sign."""
        flipped = self._along(gradient) * state.slopes < 0
        shrunk = state.lengths * self.RETREAT
        return state._replace(lengths=torch.where(flipped, shrunk, state.lengths))

    def step(self, state: RpropState) -> Tensor:
        """The step: what to add to x, shape (n,)."""
        moves = -state.lengths * state.slopes.sign()
        n = len(moves) - len(self.tensors)
        step = moves[:n].clone()
        for part, move in zip(self.tensors, moves[n:], strict=True):
            step[part] += move
        longest = max(self.length, self.LONGEST)
        return step.clamp(-longest, longest)

    def _along(self, gradient: Tensor) -> Tensor:
        shared = [gradient[part].sum() for part in self.tensors]
        return torch.cat([gradient, gradient.new_tensor(shared)])
