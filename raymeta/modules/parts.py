"""Parts of a batch: which examples, and whether parts give what the whole does."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from raymeta._tree import tree_leaves, tree_map
from raymeta.modules.share import Axes, Draw, Shape, Share, axes_of, sharing

#: How far what parts give together may be from one pass, by rounding alone.
TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3}
HALF_TOLERANCE = 3e-2


class Part(NamedTuple):
    """Some of what is counted, one after the other: first … first + size - 1."""

    first: int
    size: int
    total: int

    @property
    def rows(self) -> slice:
        """Where they are."""
        return slice(self.first, self.first + self.size)


def rows_of(data: Any, what: str) -> int:
    """How many examples a batch has.

    Args:
        data: of the batch.
        what: asks, in an error.

    Raises:
        ValueError: there is no telling.
    """
    tensors = [x for x in tree_leaves(data) if isinstance(x, Tensor) and x.ndim]
    counts = sorted({len(x) for x in tensors})
    if len(counts) != 1:
        seen = f"{counts} rows" if counts else "no tensors"
        raise ValueError(
            f"{what} needs batches with examples in the rows of their tensors, "
            f"but got {seen}: give the examples by batch=, and let the losses close "
            "over what is no example"
        )
    return counts[0]


def rows(data: Any, part: Part) -> Any:
    """The examples of a part."""

    def some(x: Any) -> Any:
        return x[part.rows] if isinstance(x, Tensor) and x.ndim else x

    return tree_map(some, data)


def random_axes(whole: Callable[[], Any], own: Callable[[], Any], part: Part) -> Axes:
    """Where random tensors have the examples."""
    some, all_of_them = _drawn(own, part.size), _drawn(whole, part.total)
    return axes_of(some, all_of_them, part.size, part.total)


def _drawn(run: Callable[[], Any], count: int) -> dict[Draw, Shape]:
    with sharing(Share(0, count, count, lambda x: x)) as share:
        run()
    return share.shapes


def tolerance_of(seen: set[torch.dtype]) -> float:
    """How far numbers may be apart that were computed in these dtypes, by rounding."""
    narrow = {torch.bfloat16, torch.float16}
    if seen & narrow:
        return HALF_TOLERANCE
    return max(TOLERANCE.get(dtype, 0.0) for dtype in seen) or HALF_TOLERANCE


def differing(
    truth: Mapping[str, Tensor], found: Mapping[str, Tensor], tolerance: float
) -> str | None:
    """The name of a tensor that is not what it must be."""
    for name, x in truth.items():
        wide = torch.promote_types(x.dtype, torch.float64)
        x, gap = x.to(wide), (found[name].to(wide) - x.to(wide)).abs()
        if x.numel() and float(gap.max()) > tolerance * float(x.abs().max()):
            return name
    return None
