"""Collation of examples into a batch, or one line that says why there is none."""

from collections import Counter
from numbers import Number
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from raymeta._tree import flatten, tree_leaves, unflatten


def collated(
    name: str,
    items: list[Any],
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> Any:
    """Examples as tensors with examples in their rows.

    Args:
        name: the argument of `module_problem`.
        items: the examples.
        device: where they go; where they are by default.
        dtype: what Python's floats become; torch's default by default.

    Raises:
        ValueError: they do not go together, or are no tensors, arrays or numbers.
    """
    try:
        batch = default_collate(items)
    except (TypeError, RuntimeError, ValueError, KeyError) as error:
        raise _refusal(name, items, error) from error
    leaves, spec = flatten(batch)
    if not all(isinstance(leaf, Tensor) for leaf in leaves):
        raise _refusal(name, items, None)
    leaves = [leaf.detach().to(device) for leaf in leaves]
    given = tree_leaves(items[0])
    if float in map(type, given) and len(given) == len(leaves):
        dtype = torch.get_default_dtype() if dtype is None else dtype
        pairs = zip(leaves, given, strict=True)
        leaves = [leaf.to(dtype) if type(x) is float else leaf for leaf, x in pairs]
    return unflatten(leaves, spec)


def _refusal(name: str, items: list[Any], error: Exception | None) -> ValueError:
    for item in items:
        for leaf in tree_leaves(item):
            if not isinstance(leaf, Tensor | np.ndarray | np.generic | Number):
                return ValueError(
                    "module_problem needs examples of tensors, arrays and numbers, "
                    f"but one of {name} contains a {type(leaf).__name__}: turn it into "
                    "a tensor in __getitem__"
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
    """Raise ValueError unless an example is a tuple with a target.

    Args:
        name: the argument of `module_problem`.
        example: the first that was read.
    """
    if isinstance(example, dict):
        keys = list(example)
        raise ValueError(
            "module_problem needs examples that are tuples (inputs…, target), but "
            f"those of {name} have the keys {', '.join(map(repr, keys[:6]))}: wrap "
            f"them, for example [(e[{keys[0]!r}], e[{keys[-1]!r}]) for e in {name}]"
        )
    if not isinstance(example, tuple | list) or len(example) < 2:
        raise ValueError(
            "module_problem needs examples that are tuples (inputs…, target), but got "
            f"{name}[0]={_short(example)}: wrap the data set, or use "
            "TensorDataset(x, y)"
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
