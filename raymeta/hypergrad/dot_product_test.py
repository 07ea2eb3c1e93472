"""Dot-product test: forward derivatives of a step against its reverse ones."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from raymeta._tree import partition
from raymeta.hypergrad.base import differentiable
from raymeta.optim.base import as_real
from raymeta.problem import BilevelProblem
from raymeta.types import Hparams, State

#: How far apart the two may be by rounding, of the sum of the products' sizes.
_ROUNDING = {torch.float64: 1e-6, torch.float32: 1e-2}


def require_agreement(
    problem: BilevelProblem, hparams: Hparams, state: State, push: Callable[..., Any]
) -> None:
    r"""Compare the two, once for a problem, along one direction at random.

    $$ u \cdot (A z + B d) = (u A) \cdot z + (u B) \cdot d,\qquad
       A = \partial\Phi/\partial s,\; B = \partial\Phi/\partial\lambda $$

    torch's own rules are at fault where they differ: in 2.13 those of `linalg.det` and
    `scatter_reduce` within a gradient.

    Args:
        problem: Φ.
        hparams: λ.
        state: where to ask.
        push: the step of dual numbers.

    Raises:
        ValueError: they differ.
    """
    if "agrees" in problem.traced:
        return
    leaves, batch = differentiable(hparams), problem.batch(0)
    values, rest, merge = partition(state)
    values = [value.detach().requires_grad_() for value in values]
    after = problem.step(merge(values, rest), {**hparams, **leaves}, batch)
    ends = [end for end in partition(after)[0] if end.requires_grad]
    places = [i for i, end in enumerate(partition(after)[0]) if end.requires_grad]
    draw = torch.Generator().manual_seed(0)
    u = [_drawn(end, draw) for end in ends]
    inputs = [*values, *leaves.values()]
    try:
        pulled = torch.autograd.grad(ends, inputs, u, materialize_grads=True)
    except RuntimeError:  # no second derivative, which we do not need
        return
    directions = [_drawn(x, draw) for x in inputs]
    z, along = directions[: len(values)], directions[len(values) :]
    _, moved = push(
        (merge([value.detach() for value in values], rest), [x[None] for x in z]),
        (hparams, {name: d[None] for name, d in zip(leaves, along, strict=True)}),
        batch,
    )
    reverse, size = _product(pulled, directions)
    forward, other = _product(u, [moved[i][0] for i in places])
    close = max(_ROUNDING.get(x.dtype, 1.0) for x in map(as_real, inputs))
    if bool(reverse.isfinite()) and not float((forward - reverse).abs()) <= close * (
        float(size + other)
    ):
        raise ValueError(
            "Forward needs operators whose forward derivative is right, but that of a "
            f"step differs from its reverse one along some direction ({float(forward)} "
            f"and {float(reverse)}), a fault of torch's rules: use Reverse"
        )
    problem.traced["agrees"] = True


def _drawn(like: Tensor, draw: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=draw, dtype=like.dtype).to(like.device)


def _product(one: Sequence[Tensor], other: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """A scalar product, and the sum of its terms' sizes."""
    terms = [
        (as_real(x).double() * as_real(y).double()).flatten()
        for x, y in zip(one, other, strict=True)
    ]
    flat = torch.cat(terms)
    return flat.sum(), flat.abs().sum()
