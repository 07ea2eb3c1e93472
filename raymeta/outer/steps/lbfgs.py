"""Limited-memory BFGS: the curvature of E, from the hypergradients of a descent."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

#: How many pairs (s, y) are remembered.
MEMORY = 10


class LBFGSState(NamedTuple):
    """State of `LBFGS` between two steps.

    Attributes:
        pairs: (s, y), the latest last; s and y have the shape of x.
    """

    pairs: tuple[tuple[Tensor, Tensor], ...] = ()


@dataclass(frozen=True)
class LBFGS:
    r"""Steps by limited-memory BFGS, whose first inverse Hessian is that of another.

    $$ p = -H \nabla E,\qquad
       H_{k+1} = (I - \rho s y^\top)\, H_k\, (I - \rho y s^\top) + \rho s s^\top,\quad
       y = \nabla E(x + s) - \nabla E(x),\; \rho = \frac{1}{y^\top s}, $$

    $$ H_0 = \operatorname{diag}\Bigl(
       \frac{|s^0_i|}{\max(|\nabla_i E|,\, \max_j |\nabla_j E| / 10)} \Bigr) $$

    with $s^0$ the step that would be taken otherwise: where nothing is known about the
    curvature it stays about that. A multiple of E has the same steps.

    Where E is rough, or a gradient explodes, y says nothing about E on the way from x
    to x + s. So a pair (s, y) is taken in only where the curvature is positive, and the
    gradients agree with the values as those of a parabola would, about:

    $$ \Bigl| E(x+s) - E(x) - \tfrac{a + b}{2} \Bigr| \le 0.4\, (|a| + |b|),\qquad
       a = \nabla E(x) \cdot s,\; b = \nabla E(x + s) \cdot s $$

    Attributes:
        longest: no step moves a coordinate by more.

    Source: Nocedal & Wright 2006, algorithm 7.4; the first H and the test for pairs are
    raymeta's own.
    """

    longest: float

    #: What gradients may miss of the change in E; the least |∇_i E| over the largest
    #: that H_0 believes.
    MISSED, LEAST = 0.4, 0.1

    def init(self) -> LBFGSState:
        """The state that knows nothing about the curvature."""
        return LBFGSState()

    def update(
        self,
        step: Tensor,
        rise: float,
        before: Tensor,
        after: Tensor,
        state: LBFGSState,
    ) -> LBFGSState:
        """The next state: s = `step` raised E by `rise`; dE/dx before and after it."""
        slopes = float(before @ step), float(after @ step)
        missed = abs(rise - sum(slopes) / 2)
        agree = missed <= self.MISSED * (abs(slopes[0]) + abs(slopes[1]))
        if not (agree and slopes[1] > slopes[0]):
            return state
        return LBFGSState((*state.pairs, (step, after - before))[-MEMORY:])

    def step(self, gradient: Tensor, otherwise: Tensor, state: LBFGSState) -> Tensor:
        """The step where dE/dx is `gradient`; `otherwise` where no pair is known."""
        if not state.pairs or not gradient.any():
            return otherwise
        least = self.LEAST * gradient.abs().max()
        first = otherwise.abs() / torch.maximum(gradient.abs(), least)
        q, used = gradient, []
        for s, y in reversed(state.pairs):
            share = (s @ q) / (s @ y)
            q = q - share * y
            used.append((share, s, y))
        step = first * q
        for share, s, y in reversed(used):
            step = step + s * (share - (y @ step) / (s @ y))
        return -step * self.longest / max(float(step.abs().max()), self.longest)
