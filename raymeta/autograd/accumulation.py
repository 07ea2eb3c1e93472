"""Sums whose terms are evaluated, and differentiated, one after the other."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from raymeta._tree import flatten, in_transform, partition, tree_leaves, unflatten
from raymeta.autograd.stop_gradient import (
    InnerGradient,
    again_within,
    innermost,
)

#: A function of a flat list of tensors.
Flat = Callable[..., Sequence[Tensor]]


def accumulated(terms: Sequence[Callable[..., Tensor]], *trees: Any) -> Tensor:
    r"""A sum, and derivatives of any order, with the graph of one term at a time.

    $$ F(x) = \sum_k f_k(x),\qquad \nabla F(x) = \sum_k \nabla f_k(x) $$

    Value and gradient of a term are found in one pass, and its graph is dropped. A
    second derivative evaluates each term again. Within a torch.func transform terms are
    only added up: there the transform keeps what it needs.

    Args:
        terms: f_k: pytrees -> shape (); each is a pure function.
        trees: x, pytrees of tensors.
    """
    live = (isinstance(x, Tensor) and x.requires_grad for x in tree_leaves(trees))
    if in_transform() or not torch.is_grad_enabled() or not any(live):
        return _added([term(*trees) for term in terms])
    leaves, rest, merge = partition(trees)
    flat = [lambda *x, f=f: (f(*merge(list(x), rest)),) for f in terms]
    return _Accumulated.apply(flat, *leaves)


def accumulated_trees(functions: Sequence[Callable[..., Any]], *trees: Any) -> Any:
    """The sum of functions that return alike trees, with the graph of one at a time.

    As `accumulated`, for many values: each function is evaluated again for a first
    derivative, and where gradients are among the values, that is a second one of these.

    Args:
        functions: pytrees -> a pytree of tensors; pure functions.
        trees: pytrees of tensors.
    """
    leaves, rest, merge = partition(trees)
    specs: list[Any] = []

    def flat(function: Callable[..., Any]) -> Flat:
        def values(*x: Tensor) -> list[Tensor]:
            found, spec = flatten(function(*merge(list(x), rest)))
            specs.append(spec)
            return found

        return values

    found = _Sum.apply([flat(f) for f in functions], innermost(), *leaves)
    return unflatten(found, specs[0])


class _Accumulated(torch.autograd.Function):
    """The sum of numbers f_k(x), and its gradient in the same pass."""

    @staticmethod
    def forward(ctx: Any, terms: Sequence[Flat], *x: Tensor) -> Tensor:
        ctx.save_for_backward(*x)
        ctx.terms, ctx.inner = terms, innermost()
        ctx.slope = [None] * len(x)
        values = []
        for term in terms:
            at = _leaves(x, ctx.needs_input_grad[1:])
            with torch.enable_grad():
                (value,) = term(*at)
            values.append(value.detach())
            inputs = [z for z in at if z.requires_grad]
            pulled = iter(_pull((value,), inputs, None))
            found = [next(pulled) if z.requires_grad else None for z in at]
            ctx.slope = [_plus(a, b) for a, b in zip(ctx.slope, found, strict=True)]
            del value, pulled, found  # one graph at a time
        return _added(values)

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple:
        taken = ctx.inner is not None and ctx.inner.taken
        if torch.is_grad_enabled() or taken:
            return None, *_pulled(ctx.terms, ctx.inner, ctx.saved_tensors, (v,))
        return None, *(None if g is None else v * g for g in ctx.slope)


class _Sum(torch.autograd.Function):
    """The sum of functions f_k(x) that return several tensors each."""

    @staticmethod
    def forward(
        ctx: Any, functions: Sequence[Flat], inner: InnerGradient | None, *x: Tensor
    ) -> tuple:
        ctx.save_for_backward(*x)
        ctx.functions, ctx.inner = functions, inner
        total: list[Tensor] = []
        for function in functions:
            values = [z.detach() for z in function(*x)]
            pairs = zip(total, values, strict=True)
            total = [a + b for a, b in pairs] if total else values
        return tuple(total)

    @staticmethod
    def backward(ctx: Any, *v: Tensor) -> tuple:
        return None, None, *_pulled(ctx.functions, ctx.inner, ctx.saved_tensors, v)


def _pulled(
    functions: Sequence[Flat],
    inner: InnerGradient | None,
    x: Sequence[Tensor],
    v: Sequence[Tensor],
) -> tuple:
    """The pullback of v through a sum of functions at x: a sum of such again."""
    taken = inner is not None and inner.taken
    pullbacks = [_pullback(function, len(x), inner, taken) for function in functions]
    return _Sum.apply(pullbacks, inner, *x, *v)


def _pullback(
    function: Flat, count: int, inner: InnerGradient | None, taken: bool
) -> Flat:
    """(x…, v…) -> v ∂f(x)/∂x, of which derivatives can be taken, too.

    Whether it is the gradient that training follows stays as it is now, whenever it is
    computed again.
    """

    def pull(*both: Tensor) -> list[Tensor]:
        differentiated = torch.is_grad_enabled() and any(z.requires_grad for z in both)
        x, v = both[:count], both[count:]
        with torch.enable_grad(), again_within(inner, taken):
            # Views, so that a derivative in one of them does not lead through another.
            at = [
                z.view_as(z) if z.requires_grad else z.detach().requires_grad_()
                for z in x
            ]
            found = _pull(function(*at), at, v, create_graph=differentiated)
            return [
                torch.zeros_like(z) if g is None else g
                for z, g in zip(at, found, strict=True)
            ]

    return pull


def _pull(
    ends: Sequence[Tensor],
    inputs: Sequence[Tensor],
    v: Sequence[Tensor] | None,
    create_graph: bool = False,
) -> list[Tensor | None]:
    """The pullback of v, of ones by default; None where nothing depends."""
    v = [torch.ones_like(end) for end in ends] if v is None else v
    pairs = [(z, u) for z, u in zip(ends, v, strict=True) if z.requires_grad]
    if not pairs or not inputs:
        return [None] * len(inputs)
    live, cotangents = map(list, zip(*pairs, strict=True))
    return list(
        torch.autograd.grad(
            live, inputs, cotangents, create_graph=create_graph, allow_unused=True
        )
    )


def _leaves(x: Sequence[Tensor], needed: Sequence[bool]) -> list[Tensor]:
    return [z.detach().requires_grad_(n) for z, n in zip(x, needed, strict=True)]


def _plus(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    if one is None or other is None:
        return one if other is None else other
    return one + other


def _added(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(values)).sum() if len(values) > 1 else values[0]
