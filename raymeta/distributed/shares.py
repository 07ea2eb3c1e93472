"""Shares of ranks: which examples, tangents or perturbations are whose."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed import ProcessGroup

from raymeta.distributed.conjugate import replicated, summed
from raymeta.modules.parts import Part, rows, rows_of
from raymeta.modules.share import Axes, Share
from raymeta.types import Batch


def part_of(total: int, group: ProcessGroup) -> Part:
    """This rank's part: sizes differ by one at most, the larger ones come first."""
    rank, world = dist.get_rank(group), dist.get_world_size(group)
    least, larger = divmod(total, world)
    first = rank * least + min(rank, larger)
    return Part(first, least + (rank < larger), total)


def own_part(total: int, group: ProcessGroup | None, what: str) -> Part:
    """This rank's part of what there must be enough of; all of it without a group.

    Args:
        total: how many.
        group: the ranks.
        what: they are, in the plural.

    Raises:
        ValueError: there are fewer of them than ranks.
    """
    if group is None:
        return Part(0, total, total)
    if total < dist.get_world_size(group):
        raise ValueError(
            f"a split over {dist.get_world_size(group)} ranks needs as many {what}, "
            f"but there are {total}: take {total} ranks, or share out the data "
            "(data_parallel)"
        )
    return part_of(total, group)


class Examples(NamedTuple):
    """A rank's share of a batch, the `data` of its `Batch`.

    Attributes:
        data: with the rank's examples in the rows of its tensors.
        part: which ones they are.
    """

    data: Any
    part: Part


class Ranks:
    """The ranks of a problem, and where its random tensors have the examples.

    Args:
        group: the ranks.

    Attributes:
        group: the ranks.
        training: where random tensors of the inner loss have them (see `Share`); None
            before it is known.
        evaluation: the same of the outer loss.
        checked: whether they are known to compute what one process does.
    """

    def __init__(self, group: ProcessGroup) -> None:
        self.group, self.checked = group, False
        self.training: Axes | None = None
        self.evaluation: Axes | None = None

    @property
    def world(self) -> int:
        """How many."""
        return dist.get_world_size(self.group)

    def part(self, total: int) -> Part:
        """This rank's part."""
        return part_of(total, self.group)

    def share(self, part: Part, axes: Axes | None) -> Share:
        """What a part of a batch is to those who draw and normalize."""
        return Share(*part, self._total, axes)

    def _total(self, x: Tensor) -> Tensor:
        return replicated(summed(x, self.group), self.group)


def shared_out(batch: Batch, ranks: Ranks) -> Batch:
    """A rank's share of a batch.

    Raises:
        ValueError: there are too few examples, or tensors of other numbers of rows.
    """
    mine = ranks.part(require_examples(batch, ranks.world))
    return batch._replace(data=Examples(rows(batch.data, mine), mine))


def require_examples(batch: Batch, world: int) -> int:
    """How many examples a batch has.

    Raises:
        ValueError: fewer than there are ranks; or there is no telling.
    """
    total = rows_of(batch.data, "data_parallel")
    if total < world:
        raise ValueError(
            f"data_parallel needs an example for each of {world} ranks, but the "
            f"batch of step {int(batch.index)} has {total}: raise batch_size, or take "
            "fewer ranks"
        )
    return total


def gathered(mine: Tensor, part: Part, group: ProcessGroup | None) -> Tensor:
    """Of a rank's part, shape (size, ...) -> of all of them, (total, ...)."""
    if group is None:
        return mine
    everyone = torch.zeros(part.total, *mine.shape[1:], dtype=mine.dtype).to(
        mine.device
    )
    everyone[part.rows] = mine.detach()
    dist.all_reduce(everyone, group=group)
    return everyone
