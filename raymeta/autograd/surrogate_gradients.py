"""Surrogate gradients: backward passes that are not the derivative of the forward."""

import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import wraps
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function

from raymeta._tree import in_transform, is_differentiable, partition, tree_map
from raymeta.autograd.double_backward import (
    marked_backward_passes,
    require_twice_differentiable,
)
from raymeta.autograd.stop_gradient import StopGradients
from raymeta.optim.base import as_real

Values = Callable[[Sequence[Tensor]], list[Tensor]]
#: How far a derivative may be from differences of the values, relative to both.
TOLERANCE = 1e-3
#: Directions in which they are compared: only what is off in all of them is told.
DIRECTIONS = 3
#: Step of the differences, relative to the size of what moves.
STEP = 1e-5
#: The class with this name is made anew for each of torch's custom operators.
CUSTOM_OPERATORS = "torch._library.autograd"


class Call(NamedTuple):
    """What a Function was applied to.

    Attributes:
        arguments: its arguments, outside every graph.
        through_stops: whether within `StopGradients`, which gives what a Function keeps
            of its forward pass a graph.
    """

    arguments: tuple
    through_stops: bool


def users_own(functions: Iterable[type[Function]]) -> list[type[Function]]:
    """Those that are neither torch's nor raymeta's."""
    return [
        cls
        for cls in functions
        if cls.__module__ == CUSTOM_OPERATORS
        or not cls.__module__.startswith(("torch.", "raymeta."))
    ]


@contextmanager
def arguments_of(
    functions: Iterable[type[Function]],
) -> Iterator[dict[type[Function], Call]]:
    """What each Function is first applied to, outside every graph."""
    found: dict[type[Function], Call] = {}
    plain = {cls: inspect.getattr_static(cls, "forward") for cls in functions}

    def watched(cls: type[Function]) -> Callable[..., Any]:
        forward, start = cls.forward, int(not _has_setup(cls))

        def watch(*args: Any, **kwargs: Any) -> Any:
            # An argument of a transform is not for use after it.
            if cls not in found and not (kwargs or in_transform()):
                found[cls] = Call(tree_map(_copy, args[start:]), _within_stops())
            return forward(*args, **kwargs)

        return watch

    own = {cls for cls in plain if "forward" in vars(cls)}
    for cls in plain:
        # Not `apply`, which may have been looked up long ago.
        cls.forward = staticmethod(wraps(cls.forward)(watched(cls)))  # type: ignore[method-assign]
    try:
        yield found
    finally:
        for cls, forward in plain.items():
            if cls in own:
                cls.forward = forward  # type: ignore[method-assign]
            else:
                del cls.forward


def _has_setup(cls: type[Function]) -> bool:
    return cls.setup_context is not Function.setup_context


def warn_of_surrogates(
    found: dict[type[Function], Call], pulled: dict[type[Function], bool]
) -> None:
    """Compare derivatives of Functions with differences of their values, and say so.

    Args:
        found: what they are applied to.
        pulled: whether their gradients are differentiated again.
    """
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        return  # what sums over ranks has a derivative on each that is another
    for cls, call in found.items():
        fault = _fault(cls, call, pulled.get(cls, False))
        if fault:
            warnings.warn(
                f"{cls.__name__} has a backward pass that {fault}: training follows it "
                "as it is, and the hypergradient is that of this surrogate, not the "
                "slope of the outer loss's values (which ES estimates)",
                stacklevel=2,
            )


def _fault(cls: type[Function], call: Call, twice: bool) -> str:
    """What is wrong with the derivatives of a Function; "" where that is unclear."""
    values, rest, merge = partition(call.arguments)
    values = [_double(x) for x in values]

    def outputs(xs: Sequence[Tensor]) -> list[Tensor]:
        with StopGradients() if call.through_stops else nullcontext():
            ends = partition(cls.apply(*merge(list(xs), rest)))[0]
        return [y for y in ends if y.requires_grad]

    def pulled(xs: Sequence[Tensor]) -> list[Tensor]:
        xs, cotangents = xs[: len(values)], xs[len(values) :]
        moving = [x for x in xs if x.requires_grad]
        with marked_backward_passes():
            grads = torch.autograd.grad(
                outputs(xs), moving, cotangents, create_graph=True, allow_unused=True
            )
        require_twice_differentiable(grads)  # which refuses it, where that is needed
        return [g for g in grads if g is not None]

    try:
        with torch.random.fork_rng([]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            before = torch.get_rng_state()
            cotangents = [torch.randn_like(y) for y in outputs(values)]
            torch.set_rng_state(before)
            outputs(values)
            if not torch.equal(before, torch.get_rng_state()):
                return ""  # a derivative of what is drawn is another matter
            if _differs(outputs, values):
                return "is not the derivative of its forward pass"
            if twice:
                both = [*values, *(v.requires_grad_() for v in cotangents)]
                if _differs(pulled, both):
                    return "autograd cannot differentiate again"
    except (RuntimeError, TypeError, ValueError, AssertionError, AttributeError):
        return ""  # it cannot be called by itself, or not in double precision
    return ""


def _within_stops() -> bool:
    modes = torch.overrides._get_current_function_mode_stack()
    return any(isinstance(mode, StopGradients) for mode in modes)


def _differs(function: Values, values: list[Tensor]) -> bool:
    """Whether derivatives along random directions are all off."""
    return all(_is_off(function, values, seed) for seed in range(DIRECTIONS))


def _is_off(function: Values, values: list[Tensor], seed: int) -> bool:
    generator = torch.Generator().manual_seed(seed)

    def draw(x: Tensor) -> Tensor:
        drawn = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        return drawn.to(x.device)

    def at(h: float) -> Tensor:
        ends = function([x + h * u if _live(x) else x for x, u in moves])
        return _dot(weights, ends)

    with torch.no_grad():
        sizes = [float(x.abs().square().mean().sqrt()) or 1.0 for x in values]
        moves = [(x, size * draw(x)) for x, size in zip(values, sizes, strict=True)]
    # Copies, since it may write into its arguments.
    ends = function([x.clone() for x in values])
    weights = [draw(y) for y in ends]
    total = _dot(weights, ends)
    slope = 0.0
    if total.requires_grad:
        moving = [(x, u) for x, u in moves if _live(x)]
        grads = torch.autograd.grad(total, [x for x, _ in moving], allow_unused=True)
        along = zip(grads, moving, strict=True)
        slope = sum(float(_dot([g], [u])) for g, (_, u) in along if g is not None)
    near, far = (float(at(h) - at(-h)) / (2 * h) for h in (STEP, 2 * STEP))
    uncertain = 10 * abs(near - far) + 1e-9 * abs(float(total))
    off = abs(slope - near)
    return off > TOLERANCE * max(abs(slope), abs(near)) + uncertain


def _dot(one: Sequence[Tensor], other: Sequence[Tensor]) -> Tensor:
    products = [
        (as_real(x) * as_real(y)).sum() for x, y in zip(one, other, strict=True)
    ]
    return torch.stack(products).sum() if products else torch.zeros(())


def _live(x: Tensor) -> bool:
    return x.requires_grad


def _copy(x: Any) -> Any:
    if not isinstance(x, Tensor):
        return x
    return x.detach().clone().requires_grad_(is_differentiable(x) and x.requires_grad)


def _double(x: Tensor) -> Tensor:
    wide = torch.complex128 if x.is_complex() else torch.float64
    return x.detach().to(wide).requires_grad_(x.requires_grad)
