"""Traces: pure functions of tensors as graphs of operators."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx
from torch._guards import TracingContext, tracing
from torch._subclasses import FakeTensorMode
from torch.func import functionalize
from torch.fx.experimental.proxy_tensor import make_fx

from raymeta import _tree as trees
from raymeta.compile.dispatch import in_place_collective
from raymeta.errors import said

aten = torch.ops.aten
#: A function of flat lists of tensors.
Kernel = Callable[..., Sequence[Tensor]]

#: They give what they get, outside autograd.
IDENTITIES = {aten.alias.default, aten.detach.default}
#: They give what they get where that has their shape already.
RESHAPES = {aten.expand.default, aten.view.default, aten._unsafe_view.default}


class Untraceable(ValueError):
    """A function of tensors that is no fixed graph of operators."""


class Meta(NamedTuple):
    """What a graph of operators takes for granted of a tensor."""

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device


class Structure:
    """A pytree but for the values of its tensors.

    Two are equal if one graph of operators serves both.

    Attributes:
        leaves: the `Meta` of each tensor, every other leaf as it is.
        count: how many tensors.
    """

    def __init__(self, spec: Any, leaves: tuple[Any, ...]) -> None:
        self._spec, self.leaves = spec, leaves
        self._metas = [leaf for leaf in leaves if isinstance(leaf, Meta)]
        self.count = len(self._metas)
        self._types = tuple(map(type, leaves))  # 1 == 1.0 == True
        self._hash = hash(leaves)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, Structure)
            and self.leaves == other.leaves
            and self._types == other._types
            and self._spec == other._spec
        )

    def fits(self, flat: list[Any], spec: Any) -> bool:
        """Whether a pytree of tensors alone has this structure."""
        if self.count != len(flat) or self.count != len(self.leaves):
            return False
        for x, meta in zip(flat, self._metas, strict=True):
            if not isinstance(x, Tensor) or (x.shape, x.dtype, x.device) != meta:
                return False
        return spec == self._spec

    def tree(self, tensors: Sequence[Tensor]) -> Any:
        """The pytree with these tensors."""
        rest = iter(tensors)
        flat = [next(rest) if isinstance(x, Meta) else x for x in self.leaves]
        return trees.unflatten(flat, self._spec)

    def differentiable(self) -> list[bool]:
        """Which of the tensors are floating-point or complex."""
        kinds = [meta.dtype for meta in self._metas]
        return [kind.is_floating_point or kind.is_complex for kind in kinds]


def flatten(tree: Any, like: Structure | None = None) -> tuple[list[Tensor], Structure]:
    """A pytree's tensors, and the rest of it: `like` itself where that is the same."""
    flat, spec = trees.flatten(tree)
    if like is not None and like.fits(flat, spec):
        return flat, like
    leaves = [
        Meta(x.shape, x.dtype, x.device) if isinstance(x, Tensor) else x for x in flat
    ]
    tensors = [x for x in flat if isinstance(x, Tensor)]
    return tensors, Structure(spec, tuple(leaves))


def trace(function: Kernel, example: Sequence[Tensor]) -> fx.GraphModule:
    """The operators that a function of tensors runs, derivatives included.

    They write into no tensor, not even where the function does.

    Args:
        function: what is traced.
        example: arguments for it, which it may write into.

    Raises:
        Untraceable: which operators run, or on how many elements, depends on the
            tensors' values; one that is not torch's own writes into a tensor.
        ValueError: a collective writes into a tensor.
    """
    # One fake mode for all that make_fx notes down, not one for every operator: half of
    # the time.
    noting = tracing(TracingContext(FakeTensorMode(allow_fallback_kernels=True)))
    try:
        with noting:
            graph = make_fx(function)(*example)
            if _writes(graph):
                # Again, without that; derivatives are operators by now.
                with without_autocast():
                    graph = make_fx(functionalize(graph))(*example)
    except RuntimeError as error:
        function(*example)  # A mistake of its own comes up as it is.
        reason = f"torch says: {str(error).splitlines()[0]}"
        culprit = ".item(), int(tensor), float(tensor), F.one_hot or nonzero"
        raise _untraceable(reason, culprit) from error
    for node in graph.graph.nodes:
        if _sized_by_values(node):
            reason = f"{node.target} gives as many elements as they say"
            culprit = "x[mask], nonzero or unique (torch.where keeps the shape)"
            raise _untraceable(reason, culprit)
    for node in graph.graph.nodes:
        if _makes_default_dtype(node):  # Inductor has another default.
            node.update_kwarg("dtype", node.meta["tensor_meta"].dtype)
        same = _unchanged(node)
        if same is not None:
            node.replace_all_uses_with(same)
        if node.target is aten.copy_.default:  # what is left is into an argument
            graph.graph.erase_node(node)
    for node in graph.graph.nodes:
        node.meta.clear()
    graph.graph.eliminate_dead_code()
    return _without_repetition(graph)


def _writes(graph: fx.GraphModule) -> bool:
    """Whether an operator writes into a tensor.

    Raises:
        ValueError: one does that is not torch's own, or a collective.
    """
    writes = False
    for node in graph.graph.nodes:
        if not isinstance(node.target, torch._ops.OpOverload):
            continue
        if node.target.namespace == "c10d":
            raise in_place_collective(node.target.name())
        ours = node.target.namespace in ("aten", "prims")
        if node.target._schema.is_mutable and not ours:
            reason = f"{node.target.name()} writes into a tensor"
            raise _untraceable(reason, "it (return a new tensor)")
        writes |= node.target._schema.is_mutable
    return writes


def _unchanged(node: fx.Node) -> fx.Node | None:
    """The node whose very value this one has, if there is one.

    vmap leaves many such views behind.
    """
    source: Any = node.args[0] if node.args else None
    if not isinstance(source, fx.Node):
        return None
    if node.target in IDENTITIES or _copies_argument(node):
        return source
    alike = _meta(node) == _meta(source)
    if alike and node.target in RESHAPES:
        return source
    swapped = node.target is source.target is aten.transpose.int
    if swapped and set(node.args[1:]) == set(source.args[1:]):
        return source.args[0]  # type: ignore[return-value]
    if alike and node.target is aten.mul.Scalar and node.args[1] == 1:
        return source
    return None


def _meta(node: fx.Node) -> Any:
    """Shape and dtype of what it gives; itself where that is not known."""
    known: Any = node.meta.get("tensor_meta")
    return (known.shape, known.dtype) if hasattr(known, "shape") else node


def _untraceable(reason: str, culprit: str) -> Untraceable:
    return Untraceable(
        "compile=True needs a step whose operators do not depend on the values of "
        f"tensors, but {reason}; write it without {culprit}, or leave compile out"
    )


def too_many_values(read: Sequence[Tensor]) -> Untraceable:
    """The error for a function that reads other numbers ever again."""
    some = ", ".join(said(x.tolist()) for x in read[:3])
    reason = f"Python code reads numbers from them that keep changing ({some}, …)"
    culprit = ".item(), int(tensor), .tolist(), .numpy() or `if tensor`"
    return _untraceable(reason, culprit)


def _sized_by_values(node: fx.Node) -> bool:
    """Whether the shape of a result depends on values, as that of x[mask] does."""
    if torch.Tag.dynamic_output_shape not in getattr(node.target, "tags", ()):
        return False
    if node.target is not aten.index.Tensor:
        return True
    indices: Any = node.args[1]
    kinds = [i.meta["tensor_meta"].dtype for i in indices if i is not None]
    return torch.bool in kinds or torch.uint8 in kinds


def _makes_default_dtype(node: fx.Node) -> bool:
    """Whether it makes a tensor, as torch.rand(3) does, of no dtype that is given."""
    schema: Any = getattr(node.target, "_schema", None)
    return (
        schema is not None
        and not node.all_input_nodes
        and "dtype" not in node.kwargs
        and any(argument.name == "dtype" for argument in schema.arguments)
    )


def _copies_argument(node: fx.Node) -> bool:
    """Whether it copies one, for the function to write into; nothing does any more."""
    return (
        node.target is aten.clone.default
        and not node.kwargs
        and isinstance(source := node.args[0], fx.Node)
        and source.op == "placeholder"
    )


def autocasts() -> tuple[Any, ...]:
    """Which devices autocast where we are, and to what."""
    return tuple(
        (device, torch.get_autocast_dtype(device))
        for device in ("cpu", "cuda")
        if torch.is_autocast_enabled(device)
    )


@contextmanager
def without_autocast() -> Iterator[None]:
    """Run operators as they stand: what autocast would cast, they cast already."""
    with ExitStack() as stack:
        for device, _ in autocasts():
            stack.enter_context(torch.autocast(device, enabled=False))
        yield


def _without_repetition(graph: fx.GraphModule) -> fx.GraphModule:
    """Compute what is the same once."""
    seen: dict[Any, fx.Node] = {}
    for node in graph.graph.nodes:
        if node.op != "call_function" or node.is_impure():
            continue
        if is_random(node):
            continue
        key = (node.target, repr(node.args), repr(node.kwargs))
        if key in seen:
            node.replace_all_uses_with(seen[key])
        else:
            seen[key] = node
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def is_random(node: fx.Node) -> bool:
    """Whether it draws random numbers."""
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
