"""Checkpoint schedules: which states to keep, and which steps to run again."""

import math
from collections.abc import Iterator
from typing import NamedTuple


class Segment(NamedTuple):
    """Some steps to differentiate, and how to get there.

    Attributes:
        origin: the step whose kept state to start from.
        keep: the steps whose states to keep on the way from `origin` to `start`.
        start: the first step to differentiate; afterwards no state from there on is
            needed any more.
        end: one after the last.
    """

    origin: int
    keep: tuple[int, ...]
    start: int
    end: int


def even(steps: int, segments: int) -> Iterator[Segment]:
    """Keep the start of each of `segments` equal parts; run each part once again.

    With √T segments both the kept states and the graph of a part are O(√T).

    Source: Chen et al. 2016, section 4.
    """
    starts = [i * steps // segments for i in range(segments)]
    yield Segment(0, tuple(starts[1:]), starts[-1], steps)
    for start, end in zip(starts[-2::-1], starts[:0:-1], strict=True):
        yield Segment(start, (), start, end)


def binomial(steps: int, states: int) -> Iterator[Segment]:
    """Keep at most `states` states, s_0 among them; the fewest steps are run again.

    The state that a segment is differentiated from is not counted.

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
        yield Segment(origin, tuple(keep), t, t + 1)
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


def repeated_steps(segments: Iterator[Segment]) -> int:
    """How many steps a schedule runs without differentiating them."""
    return sum(segment.start - segment.origin for segment in segments)
