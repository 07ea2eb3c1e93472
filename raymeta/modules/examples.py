"""Data sets by index, and which examples a step sees."""

from collections.abc import Sized
from functools import lru_cache
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset, TensorDataset, default_collate

from raymeta.modules.noise import mix
from raymeta.tree import tree_map


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


class Source:
    """A data set by index: tensors are gathered, other data sets collated.

    Args:
        data: a `TensorDataset`, a `Subset` of one, or any map-style data set of
            (inputs…, target).
        device: where the examples go.
    """

    def __init__(self, data: Dataset, device: torch.device) -> None:
        self._data, self._device = data, device
        self._tensors: tuple[Tensor, ...] | None = None
        if isinstance(data, TensorDataset):
            self._tensors = tuple(tensor.to(device) for tensor in data.tensors)
        elif isinstance(data, Subset) and isinstance(data.dataset, TensorDataset):
            rows = torch.as_tensor(data.indices)
            tensors = data.dataset.tensors
            self._tensors = tuple(tensor[rows].to(device) for tensor in tensors)

    def at(self, index: Tensor) -> Examples:
        """Some of the examples, in this order."""
        index = index.to(self._device)
        if self._tensors is not None:
            *inputs, targets = (tensor[index] for tensor in self._tensors)
            return Examples(tuple(inputs), targets, index)
        items = [self._data[i] for i in index.tolist()]
        *inputs, targets = tree_map(
            lambda x: x.to(self._device), default_collate(items)
        )
        return Examples(tuple(inputs), targets, index)

    def all(self) -> Examples:
        """All of them, as they stand."""
        index = torch.arange(len(cast(Sized, self._data)), device=self._device)
        if self._tensors is None:
            return self.at(index)
        *inputs, targets = self._tensors
        return Examples(tuple(inputs), targets, index)


def batch_indices(count: int, size: int, seed: int, t: int) -> Tensor:
    """Which examples step t sees: a new permutation each epoch, int64, shape (size,).

    Args:
        count: how many examples there are; an epoch leaves out what fills no batch.
        size: of a batch.
        seed: of the order.
        t: the step.
    """
    epoch, position = divmod(t, count // size)
    return _permutation(count, seed, epoch)[position * size : (position + 1) * size]


@lru_cache(maxsize=8)
def _permutation(count: int, seed: int, epoch: int) -> Tensor:
    generator = torch.Generator().manual_seed(mix(seed, epoch))
    return torch.randperm(count, generator=generator)


def length(name: str, data: Dataset) -> int:
    """How many examples there are.

    Args:
        name: the argument of `module_problem`.
        data: a map-style data set.

    Raises:
        ValueError: none.
    """
    count = len(cast(Sized, data))
    if count == 0:
        raise ValueError(f"module_problem needs a non-empty data set, but {name} is")
    return count


def require_targets(name: str, data: Dataset) -> None:
    """Raise ValueError unless examples are tuples with a target."""
    example = data[0]
    if not isinstance(example, tuple | list) or len(example) < 2:
        raise ValueError(
            "module_problem needs examples that are tuples (inputs…, target), but got "
            f"{name}[0]={example!r}: wrap the data set, or use TensorDataset(x, y)"
        )
