"""Dispatch modes: the operators that a call runs, seen below autograd."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from raymeta._tree import tree_leaves


class Collectives(TorchDispatchMode):
    """Notes the collectives that write into their tensors.

    Attributes:
        found: operator's name -> whether autograd should have recorded it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, bool] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: Any = None
    ) -> Any:
        if func.namespace == "c10d":
            tensors = [x for x in tree_leaves(args) if isinstance(x, Tensor)]
            # Off within the forward pass of a Function, which has its own derivative.
            recorded = torch._C._is_fwd_grad_enabled()
            live = recorded and any(x.requires_grad for x in tensors)
            self.found[func.name()] = self.found.get(func.name(), False) or live
        return func(*args, **(kwargs or {}))


def in_place_collective(name: str) -> ValueError:
    """The error for a collective that writes into its tensors."""
    return ValueError(
        "a traced, compiled or vectorized step (Forward, compile=True, vectorized=True)"
        f" needs collectives that return a new tensor, but {name} writes into its own, "
        "of which a trace sees nothing: use torch.distributed._functional_collectives"
    )


class _Dtypes(TorchDispatchMode):
    """Notes of which dtypes the results of operators are."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[torch.dtype] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: Any = None
    ) -> Any:
        results = func(*args, **(kwargs or {}))
        self.found.update(
            x.dtype for x in tree_leaves(results) if isinstance(x, Tensor)
        )
        return results


@contextmanager
def dtypes_in() -> Iterator[set[torch.dtype]]:
    """The dtypes of what operators give here."""
    with _Dtypes() as mode:
        yield mode.found


class _Random(TorchDispatchMode):
    """Notes the operators that draw random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: Any = None
    ) -> Any:
        if torch.Tag.nondeterministic_seeded in func.tags:
            self.found.add(func.name().partition("::")[2])
        return func(*args, **(kwargs or {}))


@contextmanager
def draws_random_numbers() -> Iterator[set[str]]:
    """The operators that draw random numbers here."""
    with _Random() as mode:
        yield mode.found


def will_be_used(node: Any) -> bool:
    """Whether the backward pass that is under way goes on to a node of the graph.

    `needs_input_grad` of a Function says only what requires grad: of all weights, where
    `torch.autograd.grad` was asked for the derivative by the input alone.
    """
    return node is not None and torch._C._will_engine_execute_node(node)


class _Complex(TorchDispatchMode):
    """Notes whether there is a complex tensor among the results of operators."""

    found = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: Any = None
    ) -> Any:
        results = func(*args, **(kwargs or {}))
        self.found = self.found or _any_complex(tree_leaves(results))
        return results


def has_complex(function: Callable[..., Any], example: Sequence[Tensor]) -> bool:
    """Whether a call with these arguments has complex tensors anywhere."""
    if _any_complex(example):
        return True
    with torch.no_grad(), _Complex() as mode:
        function(*(x.clone() for x in example))
    return mode.found


def _any_complex(values: Sequence[Any]) -> bool:
    return any(isinstance(x, Tensor) and x.is_complex() for x in values)
