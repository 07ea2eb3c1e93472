"""Resilient propagation with return to the best point, for whole-run hypergradients."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Rprop:
    r"""Descends by the signs of the gradient, with a step length per coordinate.

    From the best point $x$ with gradient $g$ it proposes
    $x' = x - \Delta \odot \operatorname{sign}(g)$. If $E(x') < E(x)$, x' becomes the
    best point, and $\Delta_i$ grows where the sign of $g_i$ held and shrinks where it
    flipped. Otherwise it stays at x and shrinks $\Delta_i$ where the sign flipped on
    the way, or everywhere if none did.

    Only signs and comparisons enter, so the scale of E and of its gradient (which
    explodes with a diverging run) does not matter, and neither does the initial step
    much.

    Attributes:
        step: initial length of a step in each coordinate.
        project: x -> the nearest feasible x.

    Source: Riedmiller & Braun 1993; weight-backtracking on a worse value as iRprop+
    (Igel & Huesken 2003), with faster factors, for evaluations are whole training runs.
    """

    step: float
    project: Callable[[Tensor], Tensor]
    _best: tuple[Tensor, float, Tensor] | None = field(default=None, init=False)
    _delta: Tensor = field(default_factory=lambda: torch.empty(0), init=False)

    GROW, SHRINK, SHRINK_WORSE = 1.5, 0.5, 0.35
    LONGEST = 1.5

    def observe(self, x: Tensor, value: float, gradient: Tensor) -> None:
        """Take in E(x), which may be non-finite, and dE/dx, which may not."""
        if self._best is None:
            self._delta = torch.full_like(x, self.step)
            self._best = (x, value, gradient)
            return
        flipped = gradient * self._best[2] < 0
        if value < self._best[1]:
            grown = (self._delta * self.GROW).clamp(max=max(self.LONGEST, self.step))
            self._delta = torch.where(flipped, self._delta * self.SHRINK, grown)
            self._best = (x, value, gradient)
        elif flipped.any():
            shrunk = self._delta * self.SHRINK_WORSE
            self._delta = torch.where(flipped, shrunk, self._delta)
        else:
            self._delta = self._delta * self.SHRINK

    def forget(self) -> None:
        """Take whatever value comes next for better: E itself has changed."""
        assert self._best is not None, "observe a point first"
        x, _, gradient = self._best
        self._best = (x, math.inf, gradient)

    def propose(self) -> Tensor:
        """The next point to look at."""
        assert self._best is not None, "observe a point first"
        x, _, gradient = self._best
        return self.project(x - self._delta * gradient.sign())
