"""Batches: examples of a data set by index, and what a step sees."""

import math
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from raymeta._tree import flatten, tree_leaves, tree_map
from raymeta.modules.collate import require_targets, same
from raymeta.modules.counter_rng import mix
from raymeta.modules.datasets import first_row_not_finite, gathered, length
from raymeta.modules.loaders import Loading, Order
from raymeta.modules.reading import Ahead, Reader, Task, outside_transforms


class Examples(NamedTuple):
    """Examples of a data set, the `data` of a `Batch`.

    Attributes:
        inputs: what the module is called with; of a batch that is a dictionary, it
            alone.
        targets: what the loss compares its outputs with; such a dictionary again.
        index: which ones they are, int64, shape (batch,).
    """

    inputs: tuple
    targets: Any
    index: Tensor  # type: ignore[assignment]  # hides tuple.index

    def rows(self, places: Tensor) -> "Examples":
        """Those at these places, int64, shape (m,)."""
        places = places.to(self.index.device)
        return Examples(*tree_map(lambda x: x[places], tuple(self)))


class Source:
    """A data set by index: tensors are gathered, other data sets read and collated.

    What a data set draws from the global generators of torch, Python and numpy where
    it reads an example is a function of (seed, its name, epoch, example).

    Args:
        name: the argument of `module_problem`.
        given: a data set of (inputs…, target) or of dictionaries, and how it is read.
        device: where the examples go; to a GPU by way of pinned memory.
        dtype: what Python's floats among them become.
        seed: seeds what it draws.

    Attributes:
        name: the argument of `module_problem`.
        size: how many examples there are.
        in_memory: whether they are tensors in memory.
        by_rows: whether tensors of a batch have its examples in their rows.
        draws: whether a whole reading drew a random number.

    Raises:
        ValueError: there are none, or without a target.
    """

    def __init__(
        self,
        name: str,
        given: Loading,
        device: torch.device,
        dtype: torch.dtype,
        seed: int,
    ) -> None:
        data = given.data
        self.name, self._data, self._device = name, data, device
        self.size = length(name, data)
        self.by_rows = given.collate is None
        own = mix(seed, _STREAMS[name])
        self._reader = Reader(name, data, given.collate, dtype, own)
        self._workers = given.workers
        self._ahead: Ahead | None = None
        self._tensors: tuple[Tensor, ...] | None = None
        self._rows: Tensor | None = None
        self._structure: Any = None
        self.draws = False
        found = gathered(data) if self.by_rows else None
        self.in_memory = found is not None
        if found is not None:
            tensors, self._rows = found
            if len(tensors) < 2:
                require_targets(name, data[0])
            self._tensors = tuple(tensor.detach() for tensor in tensors)
            if device not in {tensor.device for tensor in tensors}:
                # Only what is needed goes there.
                self._tensors, self._rows = self._whole(), None
            self._tensors = tuple(tensor.to(device) for tensor in self._tensors)

    def follow(self, order: Order) -> None:
        """Let workers, where there are some, read ahead along the steps of training."""
        self._read_ahead(lambda t: _task(*order.at(t)))

    def pass_by(self, size: int) -> None:
        """Let them read passes over all examples ahead, `size` at a time."""
        count = -(-self.size // size)

        def task(place: int) -> Task:
            first = place % count * size
            return list(range(first, min(first + size, self.size))), 0

        self._read_ahead(task)

    def _read_ahead(self, tasks: Callable[[int], Task]) -> None:
        if self._workers is not None and not self.in_memory:
            pinned = self._device.type == "cuda"
            self._ahead = Ahead(self._reader, tasks, self._workers, pinned)

    def at(self, index: Tensor, epoch: int = 0, place: int | None = None) -> Examples:
        """Some of the examples, in this order.

        Args:
            index: which ones.
            epoch: which time they are read.
            place: of them in what is read ahead; None where they are not in it.
        """
        index = index.to(self._device)
        if self._tensors is not None:
            rows = index if self._rows is None else self._rows.to(index.device)[index]
            *inputs, targets = (tensor[rows] for tensor in self._tensors)
            return Examples(tuple(inputs), targets, index)
        ahead, reader = self._ahead, self._reader

        def read() -> Any:
            if ahead is not None and place is not None:
                return ahead.at(place)
            return reader(index.tolist(), epoch)

        return self._examples(outside_transforms(read), index)

    @cached_property
    def whole(self) -> Examples:
        """All of them, kept."""
        return self.all()

    def part(self, first: int, stop: int, place: int | None = None) -> Examples:
        """Those from `first` to `stop`, of tensors in memory without a copy."""
        index = torch.arange(first, stop, device=self._device)
        if self._tensors is None or self._rows is not None:
            return self.at(index, place=place)
        *inputs, targets = (tensor[first:stop] for tensor in self._tensors)
        return Examples(tuple(inputs), targets, index)

    def all(self, epoch: int = 0) -> Examples:
        """All of them, as they stand."""
        index = torch.arange(self.size, device=self._device)
        if self._tensors is not None:
            *inputs, targets = self._whole()
            return Examples(tuple(inputs), targets, index)
        batch, drew = self._reader.drawn(index.tolist(), epoch)
        self.draws = self.draws or drew
        return self._examples(batch, index)

    def require_repeatable(self) -> None:
        """Raise ValueError unless a few examples are the same when read again."""
        if self._tensors is not None:
            return
        last = self.size - 1
        few = [0, last // 2, last]
        # Back and forth, so that neither a count nor an order stays unseen.
        seen = [(i, self._reader([i], 0)) for i in (*few, *reversed(few), *few)]
        first = dict(reversed(seen))
        for i, example in seen:
            if not same(first[i], example):
                raise ValueError(
                    "module_problem needs examples that are the same when read again, "
                    f"but {self.name}[{i}] is not: let it draw from the global "
                    "generators of torch, random or numpy alone, which are seeded by "
                    "(seed, epoch, example), and keep no count of calls"
                )

    def require_finite(
        self, value_of: Callable[[Examples], float], examples: Examples
    ) -> None:
        """Raise ValueError where an example is not finite, nor what is made of it.

        Args:
            value_of: examples -> a number.
            examples: what is looked at where the data are not tensors in memory.
        """
        parts = self._tensors
        if parts is None:
            parts = tuple(tree_leaves((examples.inputs, examples.targets)))
        found = first_row_not_finite(parts)
        if found is None:
            return
        row, number = found
        if self._tensors is None:
            row = int(examples.index[row]) if self.by_rows else int(examples.index[0])
        elif self._rows is not None:
            places = (self._rows == row).nonzero()
            if not len(places):  # of another part of the data
                return
            row = int(places[0])
        around = torch.arange(row, row + len(examples.index)) % self.size
        if not math.isfinite(value_of(self.at(around))):
            raise ValueError(
                f"module_problem needs finite numbers, but {self.name}[{row}] "
                f"{'' if self.by_rows else 'or one in its batch '}contains {number}: "
                "leave such examples out, or replace the value"
            )

    def _whole(self) -> tuple[Tensor, ...]:
        assert self._tensors is not None
        if self._rows is None:
            return self._tensors
        return tuple(tensor[self._rows.to(tensor.device)] for tensor in self._tensors)

    def _examples(self, batch: Any, index: Tensor) -> Examples:
        structure = flatten(batch)[1]
        if self._structure is None:
            self._structure = structure
        elif structure != self._structure:
            raise ValueError(
                f"module_problem needs batches of one structure, but that of "
                f"{self.name} with examples {index[:3].tolist()}… differs from the "
                "first: return the same keys and as many tensors each time"
            )
        batch = tree_map(self._moved, batch)
        if isinstance(batch, Mapping):
            return Examples((batch,), batch, index)
        *inputs, targets = batch
        return Examples(tuple(inputs), targets, index)

    def _moved(self, x: Tensor) -> Tensor:
        if self._device.type != "cuda" or x.device.type == "cuda":
            return x.to(self._device)
        return x.pin_memory().to(self._device, non_blocking=True)


def _task(index: Tensor, epoch: int) -> Task:
    return index.tolist(), epoch


#: A data set's random numbers are its own.
_STREAMS = {"train": 1, "val": 2, "test": 3, "holdout": 4}


def own_seed(name: str, seed: int) -> int:
    """The seed of one of the data sets.

    Args:
        name: the argument of `module_problem`.
        seed: of the problem.
    """
    return mix(seed, _STREAMS[name])
