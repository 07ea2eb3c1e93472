"""Pytrees of tensors: the few operations that the mathematics needs."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree

tree_map = _pytree.tree_map
tree_leaves = _pytree.tree_leaves


def is_differentiable(leaf: Any) -> bool:
    """Whether a leaf can carry a derivative: a real or complex floating tensor."""
    return isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex())


def detach(tree: Any) -> Any:
    """The same values, cut from every autograd graph."""
    return tree_map(lambda x: x.detach() if isinstance(x, Tensor) else x, tree)


def partition(tree: Any) -> tuple[list[Tensor], list[Any], Callable[..., Any]]:
    """Split a tree into differentiable leaves and the rest.

    Returns:
        `(leaves, rest, merge)` with `merge(leaves, rest)` equal to the tree.
    """
    flat, spec = _pytree.tree_flatten(tree)
    mask = [is_differentiable(leaf) for leaf in flat]
    leaves = [leaf for leaf, keep in zip(flat, mask, strict=True) if keep]
    rest = [leaf for leaf, keep in zip(flat, mask, strict=True) if not keep]

    def merge(leaves: list[Tensor], rest: list[Any]) -> Any:
        one, other = iter(leaves), iter(rest)
        flat = [next(one) if keep else next(other) for keep in mask]
        return _pytree.tree_unflatten(flat, spec)

    return leaves, rest, merge


def in_transform() -> bool:
    """Whether a torch.func transform (grad, jvp, vmap, …) is at work around us."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def vmapped() -> bool:
    """Whether torch.func.vmap is at work around us, maybe with others inside it."""
    stack = torch._C._functorch.get_interpreter_stack() or []
    return any(level.key() == torch._C._functorch.TransformType.Vmap for level in stack)
