"""Double backward: operators without one, found in autograd's graphs."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import BackwardCFunction

from raymeta._tree import tree_leaves

#: Nodes that stand for no derivative. They need not be on the way to what is asked for:
#: that of `once_differentiable` hangs on a leaf of its own, which
#: `torch.autograd.grad(outputs, inputs)` never visits, so that a 0 comes out.
DEAD_ENDS = ("Error", "DelayedError", "WarnNotImplemented")
REMEDY = "write the operator out, or use ES"
#: Where a node says which `torch.autograd.Function` it is of, and on what tensors its
#: dead end depends.
OWNER, SOURCES = "raymeta.owner", "raymeta.runtime.source_code"


@contextmanager
def marked_backward_passes() -> Iterator[dict[type[Function], bool]]:
    """Let every `once_differentiable` backward pass leave its dead end in the graph.

    torch leaves none where the incoming gradient requires none (a loss that is the
    operator's own mean), although what was saved does. Here dead ends also say whose
    they are.

    Yields:
        The Python-defined Functions whose backward passes ran, and whether they are
        to be differentiated again.
    """
    pulled: dict[type[Function], bool] = {}
    plain = BackwardCFunction.apply

    def apply(node: Any, *grads: Any) -> Any:
        cls, again = node._forward_cls, torch.is_grad_enabled()
        pulled[cls] = pulled.get(cls, False) or again
        if not again:
            return plain(node, *grads)
        results = plain(node, *map(_requiring_grad, grads))
        for x in results if isinstance(results, tuple) else (results,):
            end: Any = x.grad_fn if isinstance(x, Tensor) else None
            if end is not None and _is_dead(end):
                end.metadata[OWNER] = cls.__name__
                kept = (grads, node.saved_tensors, vars(node))
                end.metadata[SOURCES] = _live(kept)
        return results

    BackwardCFunction.apply = apply  # type: ignore[method-assign]
    try:
        yield pulled
    finally:
        BackwardCFunction.apply = plain  # type: ignore[method-assign]


def require_twice_differentiable(
    outputs: Any, inputs: Iterable[Tensor] | None = None, remedy: str = REMEDY
) -> None:
    """Raise ValueError where autograd's graph of these tensors has a dead end.

    Args:
        outputs: a pytree of tensors that contain a derivative, for example s_1 of a
            step, or the gradient of an inner loss, computed with `create_graph=True`
            and within `marked_backward_passes`.
        inputs: what they are to be differentiated by: only dead ends on the way count.
            All of them do if None.
        remedy: what to do about it.
    """
    ends = None if inputs is None else {id(x) for x in inputs}
    for node in _graph(_live(outputs)):
        if not _is_dead(node):
            continue
        sources = node.metadata.get(SOURCES)
        if ends is None or sources is None or _reaches(sources, ends):
            raise not_twice(_told(node), remedy)


def not_twice(fault: str, remedy: str = REMEDY) -> ValueError:
    """The error for an operator without a second derivative."""
    return ValueError(
        f"reverse mode needs operators with a second derivative, but {fault}; {remedy}"
    )


def _requiring_grad(x: Any) -> Any:
    plain = isinstance(x, Tensor) and not x.requires_grad and x.is_floating_point()
    return x.detach().requires_grad_() if plain else x


def _live(tree: Any) -> list[Tensor]:
    return [x for x in tree_leaves(tree) if isinstance(x, Tensor) and x.requires_grad]


def _graph(tensors: list[Tensor]) -> Iterator[Any]:
    """All nodes that they come from."""
    stack = [_node(x) for x in tensors]
    seen = set()
    while stack:
        node = stack.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            stack.extend(source for source, _ in node.next_functions)


def _node(x: Tensor) -> Any:
    return torch.autograd.graph.get_gradient_edge(x).node


def _reaches(tensors: list[Tensor], ends: set[int]) -> bool:
    leaves = (getattr(node, "variable", None) for node in _graph(tensors))
    return any(id(leaf) in ends for leaf in leaves)


def _is_dead(node: Any) -> bool:
    return node.name().rpartition("::")[2] in DEAD_ENDS


def _told(node: Any) -> str:
    if "NotImplemented" in node.name():
        return "one has no derivative registered (torch.library.register_autograd)"
    owner = node.metadata.get(OWNER, "one")
    return f"{owner} is marked @once_differentiable"
