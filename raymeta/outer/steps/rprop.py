"""Resilient propagation: steps by the signs of the hypergradient."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
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
        length: how far the first step moves every coordinate. Elements of a tensor go
            half of it by themselves, half of it together.
        tensors: which coordinates are elements of one tensor.

    Source: Riedmiller & Braun 1993, with a larger growth, for a point costs a whole
    training run. The shared directions are raymeta's own.
    """

    length: float
    tensors: Sequence[slice] = ()
    _lengths: Tensor | None = field(default=None, init=False)
    _slopes: Tensor = field(default_factory=lambda: torch.empty(0), init=False)

    GROW, SHRINK, RETREAT = 1.5, 0.5, 0.35
    #: A step is grown to this at most: a factor of 4.5 in a positive hyperparameter.
    LONGEST = 1.5

    def turn(self, gradient: Tensor) -> None:
        """Take in dE/dx where to step from, shape (n,)."""
        slopes = self._along(gradient)
        if self._lengths is None:
            self._lengths = self._first(slopes)
        else:
            grown = torch.minimum(
                self._lengths * self.GROW, self._lengths.clamp(min=self.LONGEST)
            )
            flipped = slopes * self._slopes < 0
            self._lengths = torch.where(flipped, self._lengths * self.SHRINK, grown)
        self._slopes = slopes

    def retreat(self, gradient: Tensor) -> None:
        """Shrink what changed its sign at the end of a step."""
        assert self._lengths is not None, "turn to a gradient first"
        flipped = self._along(gradient) * self._slopes < 0
        shrunk = self._lengths * self.RETREAT
        self._lengths = torch.where(flipped, shrunk, self._lengths)

    def step(self) -> Tensor:
        """What to add to x, shape (n,)."""
        assert self._lengths is not None, "turn to a gradient first"
        moves = -self._lengths * self._slopes.sign()
        n = len(moves) - len(self.tensors)
        step = moves[:n].clone()
        for part, move in zip(self.tensors, moves[n:], strict=True):
            step[part] += move
        return step

    def scale(self, factor: float) -> None:
        """Change all lengths: a line search went another way than one step."""
        assert self._lengths is not None, "turn to a gradient first"
        self._lengths = self._lengths * factor

    def _along(self, gradient: Tensor) -> Tensor:
        shared = [gradient[part].sum() for part in self.tensors]
        return torch.cat([gradient, gradient.new_tensor(shared)])

    def _first(self, slopes: Tensor) -> Tensor:
        lengths = torch.full_like(slopes, self.length)
        for part in self.tensors:
            lengths[part] = self.length / 2
        lengths[len(slopes) - len(self.tensors) :] = self.length / 2
        return lengths
