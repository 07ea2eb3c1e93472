"""Shares of a batch: what a part of its examples needs to know of the others.

Who computes a part of a batch at a time (one of several ranks) says so by `sharing`.
Random numbers then are the rows that the whole batch's have for these examples, and
batch norms normalize by the moments of the whole batch.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from torch import Tensor

Shape = tuple[int, ...]
#: A seed, and how many random tensors were drawn by it before.
Draw = tuple[int, int]


class Axis(NamedTuple):
    """Where a random tensor has the examples.

    Attributes:
        dim: the dimension.
        each: elements of it that one example has.
    """

    dim: int
    each: int


Axes = dict[Draw, Axis | None]


class Share:
    """Some of the examples of a batch, one after the other.

    Args:
        first: the place of the first one in the batch.
        count: how many.
        total: examples in the batch.
        total_of: a tensor of this share -> the sum over all shares, for which each
            needs its derivatives.
        axes: where random tensors have the examples, by draw; None where one has none,
            and is the same for all shares. Without them numbers are drawn as if there
            were no other shares.

    Attributes:
        shapes: of what was drawn so far, by draw.
    """

    def __init__(
        self,
        first: int,
        count: int,
        total: int,
        total_of: Callable[[Tensor], Tensor],
        axes: Axes | None = None,
    ) -> None:
        self.first, self.count, self.total = first, count, total
        self._total_of, self._axes = total_of, axes
        self.shapes: dict[Draw, Shape] = {}

    @property
    def weight(self) -> float:
        """The share of the examples, in (0, 1]."""
        return self.count / self.total

    def mean(self, x: Tensor) -> Tensor:
        """The batch's mean of what is a mean over examples."""
        return self._total_of(x * self.weight)

    def drawn(self, draw: Draw, shape: Shape) -> Axis | None:
        """Where a random tensor of this shape, now drawn, has the examples.

        Raises:
            ValueError: it has no dimension for them, unlike another time.
        """
        if self.shapes.setdefault(draw, shape) != shape:
            raise _unlike(f"{self.shapes[draw]} and {shape}")
        if self._axes is None:
            return None
        if draw not in self._axes:
            raise _unlike(f"{shape} and, at first, nothing")
        axis = self._axes[draw]
        if axis is not None:
            length = shape[axis.dim] if axis.dim < len(shape) else 0
            if length != axis.each * self.count:
                raise _unlike(f"{shape}, and at first another one")
        return axis


def _unlike(seen: str) -> ValueError:
    return ValueError(
        "a share of a batch needs random tensors of which each has its examples in the "
        f"same dimension at every step, but one had the shapes {seen}: draw the same "
        "ones, in the same order, at every step"
    )


def axes_of(
    part: dict[Draw, Shape], whole: dict[Draw, Shape], count: int, total: int
) -> Axes:
    """Where random tensors have the examples, by those of a part and of all of them.

    Args:
        part: shapes for `count` examples.
        whole: shapes for `total` examples, more of them.
        count: examples of the part.
        total: all examples.

    Raises:
        ValueError: there is no telling.
    """
    if part.keys() != whole.keys():
        raise _unlike("of some examples, but not of others")
    return {draw: _axis(part[draw], whole[draw], count, total) for draw in part}


def _axis(part: Shape, whole: Shape, count: int, total: int) -> Axis | None:
    if part == whole:
        return None
    if len(part) == len(whole):
        moved = [d for d, n in enumerate(part) if n != whole[d]]
        each = part[moved[0]] // count
        lengths = part[moved[0]], whole[moved[0]]
        if len(moved) == 1 and lengths == (each * count, each * total):
            return Axis(moved[0], each)
    raise _unlike(f"{part} for {count} examples and {whole} for {total}")


_current: ContextVar[Share | None] = ContextVar("share", default=None)


def current() -> Share | None:
    """The share that is computed here; None where it is the whole batch."""
    return _current.get()


@contextmanager
def sharing(share: Share) -> Iterator[Share]:
    """Compute for a share of a batch."""
    token = _current.set(share)
    try:
        yield share
    finally:
        _current.reset(token)
