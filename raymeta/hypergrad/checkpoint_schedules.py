"""Checkpoint schedules: which states to keep, and which steps to run again."""

import math
from collections.abc import Iterator
from typing import NamedTuple


class Pullback(NamedTuple):
    """A step to differentiate, and how to get to the state before it.

    Attributes:
        origin: the step whose kept state to start from.
        keep: the steps whose states to keep on the way from `origin` to `step`.
        step: which; afterwards no state from there on is needed any more.
    """

    origin: int
    keep: tuple[int, ...]
    step: int


def even(steps: int, segments: int) -> Iterator[Pullback]:
    """Keep the start of each of `segments` equal parts, and a part's states at a time.

    Every part but the last is run once again. With √T segments the kept states are
    O(√T), and one step's graph is alive.

    Source: Chen et al. 2016, section 4.
    """
    starts = [i * steps // segments for i in range(segments)]
    for start, end in zip(starts[::-1], [steps, *starts[:0:-1]], strict=True):
        first = end == steps
        keep = (*starts[1:], *range(start + 1, end)) if first else range(start + 1, end)
        yield Pullback(0 if first else start, tuple(keep), end - 1)
        for step in range(end - 2, start - 1, -1):
            yield Pullback(step, (), step)


def binomial(steps: int, states: int) -> Iterator[Pullback]:
    """Keep at most `states` states, s_0 among them; the fewest steps are run again.

    The state that a step is differentiated from is not counted.

    Source: Griewank & Walther 2000, Proposition 1 and Algorithm 799 (Revolve).
    """
    kept, end = [0], steps
    while end > 0:
        origin = t = kept[-1]
        keep: list[int] = []
        while end - t > 1:
            t += _leap(end - t, states - len(kept) + 1)
            if len(kept) < states:
                kept.append(t)
                keep.append(t)
        yield Pullback(origin, tuple(keep), t)
        end = t
        if kept[-1] == end:
            kept.pop()


def _leap(length: int, states: int) -> int:
    """How far to run before the next state is kept.

    With r such that β(s, r-1) < l <= β(s, r), the steps to recompute are fewest for any
    m with β(s, r-2) <= m <= β(s, r-1) and β(s-1, r-1) <= l - m <= β(s-1, r).
    """
    repeats = 0
    while beta(states, repeats) < length:
        repeats += 1
    return max(1, beta(states, repeats - 2), length - beta(states - 1, repeats))


def beta(states: int, repeats: int) -> int:
    """β(s, r) = C(s + r, s): the longest run that s states and r repeats reverse."""
    return math.comb(states + repeats, states) if repeats >= 0 else 0


def advances(schedule: Iterator[Pullback]) -> int:
    """How many steps a schedule runs without differentiating them."""
    return sum(pullback.step - pullback.origin for pullback in schedule)
