"""A line search by values alone: how far to go along a step."""

import math
from dataclasses import dataclass
from typing import NamedTuple


class LineSearchState(NamedTuple):
    """State of a `LineSearch`.

    Attributes:
        length: the t to try next; None when the search is over.
        best: the best t tried, 0 if none was better than x.
        value: φ(best).
    """

    length: float | None
    best: float
    value: float


@dataclass(frozen=True)
class LineSearch:
    r"""Finds $t$ with $\phi(t) = E(x + t s) < \phi(0)$, asking for one value at a time.

    The first trial is t = 1. As long as trials are better than all before, t doubles.
    If the first one is not better than t = 0, the next is the minimum of the parabola
    through $\phi(0)$, $\phi'(0)$ and $\phi(t)$,

    $$ t' = \frac{-\phi'(0)\,t^2}{2\,(\phi(t) - \phi(0) - \phi'(0)\,t)}, $$

    within [0.15, 0.6] t, and t / 4 where φ(t) is not finite: until a trial is better or
    t is below the shortest. Multiples of E, or E plus a constant, give the same trials.

    Attributes:
        value: φ(0).
        slope: φ'(0); not positive.
        shortest: t is not tried below it.

    Source: Nocedal & Wright 2006, section 3.5 (interpolation).
    """

    value: float
    slope: float
    shortest: float = 0.0

    NARROWEST, WIDEST, UNKNOWN = 0.15, 0.6, 0.25

    def init(self) -> LineSearchState:
        """The state before the first trial."""
        return LineSearchState(1.0, 0.0, self.value)

    def update(self, value: float, state: LineSearchState) -> LineSearchState:
        """The next state from φ(state.length), which may be non-finite."""
        t, best, lowest = state
        assert t is not None, "the search is over"
        if value < lowest:
            # A step that had to be shortened is not lengthened again.
            return LineSearchState(2 * t if t >= 1 else None, t, value)
        if best:
            return state._replace(length=None)
        shorter = t * self._shrink(value, t)
        return state._replace(length=shorter if shorter >= self.shortest else None)

    def _shrink(self, value: float, t: float) -> float:
        if not math.isfinite(value):
            return self.UNKNOWN
        bend = value - self.value - self.slope * t
        if bend <= 0:  # only where the slope is zero
            return self.UNKNOWN
        return min(max(-self.slope * t / (2 * bend), self.NARROWEST), self.WIDEST)
