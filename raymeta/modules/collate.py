"""Collation of examples into a batch, or one line that says why there is none."""

from collections import Counter
from collections.abc import Callable, Mapping
from numbers import Number
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from raymeta._tree import flatten, named_leaves, tree_leaves, unflatten


def collated(
    name: str,
    items: list[Any],
    dtype: torch.dtype | None = None,
    collate: Callable[[list], Any] | None = None,
) -> Any:
    """Examples as a batch: a pytree of tensors, on the device where they are.

    Args:
        name: the argument of `module_problem`.
        items: the examples.
        dtype: what Python's floats become; torch's default by default.
        collate: puts them together; by default `default_collate`, for which tensors
            have examples in their rows.

    Raises:
        ValueError: they do not go together, or are no tensors, arrays or numbers.
    """
    if collate is None:
        batch = _by_default(name, items, dtype)
    else:
        try:
            batch = collate(items)
        except Exception as error:
            said = (str(error).splitlines() or [""])[0]
            raise ValueError(
                f"the collate function of {name} fails for {len(items)} examples: "
                f"{type(error).__name__}: {said}"
            ) from error
    leaves, spec = flatten(plain(batch))
    return unflatten([_tensor(name, leaf, dtype) for leaf in leaves], spec)


def _by_default(name: str, items: list[Any], dtype: torch.dtype | None) -> Any:
    try:
        batch = plain(default_collate(items))
    except (TypeError, RuntimeError, ValueError, KeyError) as error:
        raise _refusal(name, items, error) from error
    leaves, spec = flatten(batch)
    if not all(isinstance(leaf, Tensor) for leaf in leaves):
        raise _refusal(name, items, None)
    given = tree_leaves(plain(items[0]))
    if float in map(type, given) and len(given) == len(leaves):
        dtype = torch.get_default_dtype() if dtype is None else dtype
        pairs = zip(leaves, given, strict=True)
        leaves = [leaf.to(dtype) if type(x) is float else leaf for leaf, x in pairs]
    return unflatten(leaves, spec)


def plain(batch: Any) -> Any:
    """A batch whose mappings are dictionaries, which every tree can have."""
    if isinstance(batch, Mapping):
        return {key: plain(value) for key, value in batch.items()}
    if type(batch) in (tuple, list):
        return type(batch)(map(plain, batch))
    return batch


def _tensor(name: str, leaf: Any, dtype: torch.dtype | None) -> Tensor:
    """A leaf of a batch; numbers would be constants of what is traced."""
    if isinstance(leaf, Tensor):
        return leaf.detach()
    if isinstance(leaf, np.ndarray | np.generic) and leaf.dtype.kind in "biufc":
        return torch.as_tensor(leaf)
    if isinstance(leaf, bool | int):
        return torch.tensor(leaf)
    if isinstance(leaf, float):
        return torch.tensor(leaf, dtype=dtype)
    raise ValueError(
        "module_problem needs batches of tensors, arrays and numbers, but the collate "
        f"function of {name} returned a {type(leaf).__name__} among them: turn it into "
        "a tensor, or leave it out"
    )


def _refusal(name: str, items: list[Any], error: Exception | None) -> ValueError:
    for item in items:
        for path, leaf in named_leaves(plain(item)).items():
            if not isinstance(leaf, Tensor | np.ndarray | np.generic | Number):
                where = f" at {path}" if isinstance(item, Mapping) else ""
                return ValueError(
                    "module_problem needs examples of tensors, arrays and numbers, "
                    f"but one of {name} contains a {type(leaf).__name__}{where}: turn "
                    "it into a tensor in __getitem__, or leave it out by collate="
                )
    shapes = Counter(
        tuple(np.shape(leaf)) for item in items for leaf in tree_leaves(item)[:1]
    )
    targets = Counter(
        tuple(np.shape(leaf)) for item in items for leaf in tree_leaves(item)[-1:]
    )
    for seen in (shapes, targets):
        if len(seen) > 1:
            one, other = sorted(seen)[:2]
            return ValueError(
                f"module_problem needs examples of one shape, but those of {name} have "
                f"{one} and {other}: pad them, or crop them, in __getitem__"
            )
    said = str(error).splitlines()[0] if error else "they are no tensors"
    return ValueError(
        f"module_problem cannot put examples of {name} into one batch: {said}"
    )


def require_targets(name: str, example: Any) -> None:
    """Raise ValueError unless an example, or a batch, has something to compare with.

    Args:
        name: the argument of `module_problem`.
        example: a tuple (inputs…, target), or a dictionary, which is given to the loss
            as a whole.
    """
    if isinstance(example, Mapping) and example:
        return
    if not isinstance(example, tuple | list) or len(example) < 2:
        raise ValueError(
            "module_problem needs examples that are tuples (inputs…, target) or "
            f"dictionaries, but got {_short(example)} from {name}: wrap the data set, "
            "use TensorDataset(x, y), or a collate function that returns (x, x)"
        )


def _short(value: Any) -> str:
    """On one line, and not a whole image."""
    return " ".join(repr(value).split())[:60]


def same(one: Any, other: Any) -> bool:
    """Whether two trees of tensors are the same bit for bit."""
    (ones, spec), (others, form) = flatten(one), flatten(other)
    return spec == form and all(map(_same, ones, others))


def _same(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return torch.equal(one, other) or _bytes(one) == _bytes(other)


def _bytes(tensor: Tensor) -> bytes:
    """Also of what is not a number, which equals nothing."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()
