"""Data sets by index, from data as users bring them."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from raymeta.modules.rng_state import restored, seed_all

#: A stream of more examples is taken for one without end.
MOST_OF_A_STREAM = 1_000_000


def data_set(name: str, given: Any) -> Dataset:
    """Data by index, of at least one example.

    Args:
        name: the argument of `module_problem`.
        given: a map-style data set; an `IterableDataset`, which is read once; or a
            tuple of tensors or of arrays with examples in their rows, which stands for
            a `TensorDataset` of them.

    Raises:
        ValueError: nothing of that kind.
    """
    rows = _rows(name, given)
    if rows is not None:
        return TensorDataset(*rows)
    if isinstance(given, IterableDataset):
        return cast(Dataset, _read_once(name, given))
    kind = type(given)
    if isinstance(given, Iterator) or not (
        callable(getattr(kind, "__getitem__", None))
        and callable(getattr(kind, "__len__", None))
    ):
        raise ValueError(
            f"module_problem needs data with a length and examples by index, but got "
            f"{name} of type {kind.__name__}: give list({name}), or a data set with "
            "__len__ and __getitem__"
        )
    _require_columns(name, given)
    return cast(Dataset, given)


def _read_once(name: str, given: IterableDataset) -> list[Any]:
    """The examples of a stream, as they come the first time.

    What it draws from the global generators is seeded, so that the next reading is the
    same.
    """
    with restored():
        seed_all(0)
        try:
            examples = list(islice(given, MOST_OF_A_STREAM + 1))
        except Exception as error:
            said = (str(error).splitlines() or [""])[0]
            raise ValueError(
                f"module_problem cannot read the stream {name}: "
                f"{type(error).__name__}: {said}"
            ) from error
    if len(examples) > MOST_OF_A_STREAM:
        raise ValueError(
            f"module_problem reads a stream once, into memory, but {name} goes on "
            f"after {MOST_OF_A_STREAM:,} examples: cut it by itertools.islice, or give "
            "a data set by index"
        )
    return examples


def _rows(name: str, given: Any) -> list[Tensor] | None:
    """The tensors of a tuple of tensors or of arrays; None where it is none."""
    if isinstance(given, Tensor | np.ndarray):
        raise ValueError(
            f"module_problem needs targets, but got {name} of shape "
            f"{tuple(given.shape)} alone: give {name}=(inputs, targets)"
        )
    if not isinstance(given, tuple | list) or not given:
        return None
    if not all(isinstance(part, Tensor | np.ndarray) for part in given):
        return None
    shapes = [tuple(part.shape) for part in given]
    if len(given) < 2 or len({shape[:1] for shape in shapes}) > 1 or () in shapes:
        raise ValueError(
            f"module_problem needs inputs and targets of as many rows, but got {name} "
            f"with shapes {shapes}: give {name}=(inputs, targets)"
        )
    return [_tensor(part) for part in given]


def _tensor(part: Tensor | np.ndarray) -> Tensor:
    """Without a copy, where numpy lets others write."""
    if isinstance(part, Tensor):
        return part
    return torch.from_numpy(part) if part.flags.writeable else torch.tensor(part)


def _require_columns(name: str, given: Any) -> None:
    """Raise ValueError for a mapping, whose length is not that of its columns."""
    if isinstance(given, Mapping) and set(given) != set(range(len(given))):
        keys = ", ".join(repr(key) for key in list(given)[:4])
        raise ValueError(
            f"module_problem needs examples by index, but got {name} with the keys "
            f"{keys}: give {name}=(inputs, targets), or one of the data sets in it"
        )


def gathered(data: Dataset) -> tuple[tuple[Tensor, ...], Tensor | None] | None:
    """The tensors of a data set and which of their rows it has, if it is only that.

    Of a class that reads its examples in another way it is not known.

    Args:
        data: a data set by index.

    Returns:
        The tensors, and rows of them in order, or None for all of them; or None.
    """
    kind = type(data)
    if isinstance(data, TensorDataset):
        own = kind.__getitem__ is TensorDataset.__getitem__
        return (data.tensors, None) if own and _plain_batches(kind) else None
    if isinstance(data, Subset) and kind.__getitem__ is Subset.__getitem__:
        if not _plain_batches(kind, Subset):
            return None
        inside = gathered(data.dataset)
        if inside is None:
            return None
        tensors, before = inside
        rows = torch.as_tensor(data.indices)
        return tensors, rows if before is None else before[rows]
    return None


def _plain_batches(kind: type, base: type = TensorDataset) -> bool:
    """Whether a class reads several examples as its base does."""
    name = "__getitems__"
    return getattr(kind, name, None) is getattr(base, name, None)


def length(name: str, data: Dataset) -> int:
    """How many examples there are.

    Args:
        name: the argument of `module_problem`.
        data: a map-style data set.

    Raises:
        ValueError: none.
    """
    try:
        count = len(cast(Sequence, data))
    except (TypeError, NotImplementedError) as error:
        raise ValueError(
            f"module_problem needs data with a length, but len({name}) fails: "
            f"{error or type(error).__name__}"
        ) from error
    if count == 0:
        raise ValueError(f"module_problem needs a non-empty data set, but {name} is")
    return count


def first_row_not_finite(tensors: Sequence[Any]) -> tuple[int, float] | None:
    """The first row with a number that is not finite, and that number."""
    found = []
    for tensor in tensors:
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            continue
        if tensor.ndim == 0:  # of the batch, not of an example
            tensor = tensor[None]
        # One pass without memory; only what overflows is looked at twice.
        if math.isfinite(float(tensor.detach().sum())):
            continue
        strange = ~torch.isfinite(tensor.detach()).reshape(len(tensor), -1)
        if bool(strange.any()):
            row = int(strange.any(1).nonzero()[0])
            found.append((row, float(tensor[row].reshape(-1)[strange[row]][0])))
    return min(found, key=lambda each: each[0], default=None)
