"""Batches: data sets by index, and which examples a step sees."""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from raymeta._tree import tree_leaves, tree_map
from raymeta.modules.collate import collated, require_targets, same
from raymeta.modules.counter_rng import mix
from raymeta.modules.datasets import first_row_not_finite, gathered, length
from raymeta.modules.rng_state import restored, seed_all, states
from raymeta.problem import ValidationLoss
from raymeta.types import Hparams, State


class Examples(NamedTuple):
    """Examples of a data set, the `data` of a `Batch`.

    Attributes:
        inputs: what the module is called with.
        targets: what the loss compares its outputs with.
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
    """A data set by index: tensors are gathered, other data sets collated.

    What a data set draws from the global generators of torch, Python and numpy where
    it reads an example is a function of (seed, its name, epoch, example).

    Args:
        name: the argument of `module_problem`.
        data: a `TensorDataset`, a `Subset` of one, or any map-style data set of
            (inputs…, target).
        device: where the examples go.
        dtype: what Python's floats among them become.
        seed: seeds what it draws.

    Attributes:
        name: the argument of `module_problem`.
        draws: whether a whole reading drew a random number.

    Raises:
        ValueError: examples are no tuples with a target.
    """

    def __init__(
        self,
        name: str,
        data: Dataset,
        device: torch.device,
        dtype: torch.dtype,
        seed: int,
    ) -> None:
        self.name, self._data, self._device = name, data, device
        self._dtype, self._seed = dtype, mix(seed, _STREAMS[name])
        self._tensors: tuple[Tensor, ...] | None = None
        self._rows: Tensor | None = None
        self.draws = False
        found = gathered(data)
        if found is not None:
            tensors, self._rows = found
            if len(tensors) < 2:
                require_targets(name, data[0])
            self._tensors = tuple(tensor.detach() for tensor in tensors)
            if device not in {tensor.device for tensor in tensors}:
                # Only what is needed goes there.
                self._tensors, self._rows = self._whole(), None
            self._tensors = tuple(tensor.to(device) for tensor in self._tensors)

    def at(self, index: Tensor, epoch: int = 0) -> Examples:
        """Some of the examples, in this order."""
        index = index.to(self._device)
        if self._tensors is not None:
            rows = index if self._rows is None else self._rows.to(index.device)[index]
            *inputs, targets = (tensor[rows] for tensor in self._tensors)
            return Examples(tuple(inputs), targets, index)
        with restored():
            items = [self._read(i, epoch) for i in index.tolist()]
        return self._examples(items, index)

    def all(self, epoch: int = 0) -> Examples:
        """All of them, as they stand."""
        index = torch.arange(length(self.name, self._data), device=self._device)
        if self._tensors is not None:
            *inputs, targets = self._whole()
            return Examples(tuple(inputs), targets, index)
        items = []
        with restored():
            for i in index.tolist():
                items.append(self._read(i, epoch))
                self.draws = self.draws or self._drew(i, epoch)
        return self._examples(items, index)

    def require_repeatable(self) -> None:
        """Raise ValueError unless a few examples are the same when read again."""
        if self._tensors is not None:
            return
        last = length(self.name, self._data) - 1
        few = [0, last // 2, last]
        with restored():
            # Back and forth, so that neither a count nor an order stays unseen.
            seen = [(i, self._read(i, 0)) for i in (*few, *reversed(few), *few)]
        require_targets(self.name, seen[0][1])
        first = {i: collated(self.name, [example]) for i, example in reversed(seen)}
        for i, example in seen:
            if not same(first[i], collated(self.name, [example])):
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
            row = int(examples.index[row])
        elif self._rows is not None:
            places = (self._rows == row).nonzero()
            if not len(places):  # of another part of the data
                return
            row = int(places[0])
        size, count = len(examples.index), length(self.name, self._data)
        around = torch.arange(row, row + size) % count
        if not math.isfinite(value_of(self.at(around))):
            raise ValueError(
                f"module_problem needs finite numbers, but {self.name}[{row}] contains "
                f"{number}: leave such examples out, or replace the value"
            )

    def _whole(self) -> tuple[Tensor, ...]:
        assert self._tensors is not None
        if self._rows is None:
            return self._tensors
        return tuple(tensor[self._rows.to(tensor.device)] for tensor in self._tensors)

    def _read(self, i: int, epoch: int) -> Any:
        seed_all(mix(mix(self._seed, epoch), i))
        try:
            return self._data[i]
        except Exception as error:
            first = (str(error).splitlines() or [""])[0]
            raise ValueError(
                f"module_problem needs examples by index from 0, but {self.name}[{i}] "
                f"fails: {type(error).__name__}: {first}"
            ) from error

    def _drew(self, i: int, epoch: int) -> bool:
        """Whether reading an example, just done, drew a random number."""
        after = states()
        seed_all(mix(mix(self._seed, epoch), i))
        return states() != after

    def _examples(self, items: list[Any], index: Tensor) -> Examples:
        require_targets(self.name, items[0])
        *inputs, targets = collated(self.name, items, self._device, self._dtype)
        return Examples(tuple(inputs), targets, index)


#: A data set's random numbers are its own.
_STREAMS = {"train": 1, "val": 2, "test": 3, "holdout": 4}


def batch_indices(count: int, size: int, seed: int, t: int) -> Tensor:
    """Which examples step t sees: a new permutation each epoch, int64, shape (size,).

    Args:
        count: how many examples there are; an epoch leaves out what fills no batch.
        size: examples in a batch.
        seed: seeds the order.
        t: the step.
    """
    epoch, position = divmod(t, count // size)
    return _permutation(count, seed, epoch)[position * size : (position + 1) * size]


def over_batches(
    mean: Callable[[State, Hparams, Tensor | None], Tensor], count: int, seed: int
) -> ValidationLoss:
    """A mean over validation examples, and batches of them in an order of their own.

    Args:
        mean: see `ValidationLoss`.
        count: how many examples there are.
        seed: seeds the order.
    """
    own = mix(seed, _STREAMS["val"])
    return ValidationLoss(
        mean=mean, batch=lambda size, t: batch_indices(count, size, own, t), size=count
    )


@lru_cache(maxsize=8)
def _permutation(count: int, seed: int, epoch: int) -> Tensor:
    generator = torch.Generator().manual_seed(mix(seed, epoch))
    return torch.randperm(count, generator=generator)
