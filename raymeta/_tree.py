"""Pytrees of tensors: the few operations that the mathematics needs."""

from collections import namedtuple
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree

tree_map = _pytree.tree_map
#: A pytree but for its leaves: (kind, context, parts) of a container, None for a leaf.
Spec = tuple[Any, Any, list[Any]] | None


def register_dict(cls: type[dict]) -> None:
    """Let trees have dictionaries of this class, too."""
    _pytree.register_pytree_node(
        cls,
        lambda d: (list(d.values()), list(d)),
        lambda values, names: cls(zip(names, values, strict=True)),
        serialized_type_name=f"{cls.__module__}.{cls.__qualname__}",
        flatten_with_keys_fn=lambda d: (
            [(_pytree.MappingKey(name), value) for name, value in d.items()],
            list(d),
        ),
    )


@cache
def _kind(cls: type) -> Any:
    """What torch's registry of containers knows a class by.

    It looks at a class anew for each container of it, which takes longer than all else.
    """
    return namedtuple if _pytree.is_namedtuple_class(cls) else cls


def is_container(cls: type) -> bool:
    """Whether trees are made of it: torch's registry knows it, or a named tuple is."""
    return _kind(cls) in _pytree.SUPPORTED_NODES


def flatten(tree: Any) -> tuple[list[Any], Spec]:
    """The leaves of a tree, and the rest of it."""
    leaves: list[Any] = []
    return leaves, _take_apart(tree, leaves)


def _take_apart(tree: Any, leaves: list[Any]) -> Spec:
    kind = _kind(type(tree))  # type: ignore[arg-type]  # a class is hashable
    node = _pytree.SUPPORTED_NODES.get(kind)
    if node is None:
        leaves.append(tree)
        return None
    parts, context = node.flatten_fn(tree)
    return kind, context, [_take_apart(part, leaves) for part in parts]


def unflatten(leaves: Iterable[Any], spec: Spec) -> Any:
    """The tree of these leaves."""
    return _put_together(iter(leaves), spec)


def _put_together(leaves: Any, spec: Spec) -> Any:
    if spec is None:
        return next(leaves)
    kind, context, parts = spec
    whole = [_put_together(leaves, part) for part in parts]
    return _pytree.SUPPORTED_NODES[kind].unflatten_fn(whole, context)


def tree_leaves(tree: Any) -> list[Any]:
    """The leaves of a tree."""
    leaves: list[Any] = []
    _gather(tree, leaves)
    return leaves


def _gather(tree: Any, leaves: list[Any]) -> None:
    """The leaves alone, which each step looks for: in half the time of taking apart."""
    if isinstance(tree, Tensor):
        leaves.append(tree)
    elif type(tree) is dict:
        for part in tree.values():
            _gather(part, leaves)
    elif (node := _pytree.SUPPORTED_NODES.get(_kind(type(tree)))) is None:  # type: ignore[arg-type]
        leaves.append(tree)
    else:
        for part in node.flatten_fn(tree)[0]:
            _gather(part, leaves)


def named_leaves(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their place in it, as `.params['weight']`."""
    pairs, _ = _pytree.tree_flatten_with_path(tree)
    return {_pytree.keystr(path): leaf for path, leaf in pairs}


def is_differentiable(leaf: Any) -> bool:
    """Whether a leaf can carry a derivative: a real or complex floating tensor."""
    return isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex())


def detach(tree: Any) -> Any:
    """The same values, cut from every autograd graph."""
    leaves, spec = flatten(tree)
    cut = (x.detach() if isinstance(x, Tensor) else x for x in leaves)
    return unflatten(cut, spec)


def cloned(tree: Any) -> Any:
    """The same values in memory of their own, and in the same graphs."""
    return tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, tree)


def partition(tree: Any) -> tuple[list[Tensor], list[Any], Callable[..., Any]]:
    """Split a tree into differentiable leaves and the rest.

    Returns:
        `(leaves, rest, merge)` with `merge(leaves, rest)` equal to the tree.
    """
    flat, spec = flatten(tree)
    mask = [is_differentiable(leaf) for leaf in flat]
    leaves = [leaf for leaf, keep in zip(flat, mask, strict=True) if keep]
    rest = [leaf for leaf, keep in zip(flat, mask, strict=True) if not keep]

    def merge(leaves: list[Tensor], rest: list[Any]) -> Any:
        one, other = iter(leaves), iter(rest)
        flat = [next(one) if keep else next(other) for keep in mask]
        return unflatten(flat, spec)

    return leaves, rest, merge


def in_transform() -> bool:
    """Whether a torch.func transform (grad, jvp, vmap, …) is at work around us."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def transform_depth() -> int:
    """How many torch.func transforms are at work around us."""
    return len(torch._C._functorch.get_interpreter_stack() or [])


def vmapped() -> bool:
    """Whether torch.func.vmap is at work around us, maybe with others inside it."""
    stack = torch._C._functorch.get_interpreter_stack() or []
    return any(level.key() == torch._C._functorch.TransformType.Vmap for level in stack)
