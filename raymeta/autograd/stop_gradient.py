"""Stopped gradients and hooks: in force for the training gradient, and for it alone.

`detach`, `no_grad` and hooks on gradients change the direction that training follows,
not the numbers that a forward pass computes. The derivative of a training step is taken
through the same graph, and must see what they hide: weights that a stopped value
depends on do move it. So they act while the inner gradient is taken (see
`InnerGradient`), and the outer derivative passes through them.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import local
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from raymeta._tree import (
    in_transform,
    is_differentiable,
    transform_depth,
    tree_leaves,
    tree_map,
)

#: A gradient -> another one; None is 0, as for autograd.
GradientRule = Callable[[Tensor], Tensor | None]


class InnerGradient:
    """The gradient that one step of training follows, as it is computed.

    What a user wrote for it alone (a stopped gradient, a hook) acts while it is taken,
    and not in the derivative of the step, which comes later and through the same graph.

    Attributes:
        taken: whether it is being taken now.
        written: tensors that its forward pass may write into.
    """

    def __init__(self) -> None:
        self.taken = False
        self.written: list[Tensor] = []

    @contextmanager
    def being_taken(self) -> Iterator[None]:
        """While back-propagation is that of the inner gradient."""
        before, self.taken = self.taken, True
        try:
            yield
        finally:
            self.taken = before  # a hook may take a gradient of its own


_inner = local()


@contextmanager
def inner_gradient() -> Iterator[InnerGradient]:
    """Around a pass whose gradient training follows."""
    before, now = innermost(), InnerGradient()
    _inner.now = now
    try:
        yield now
    finally:
        _inner.now = before


@contextmanager
def again_within(inner: InnerGradient | None, taken: bool) -> Iterator[None]:
    """Around a part of a pass that is done again, maybe on a thread of autograd's.

    Args:
        inner: what was innermost when it was done first.
        taken: whether that was being taken.
    """
    before, _inner.now = innermost(), inner
    was = inner is not None and inner.taken
    try:
        if inner is not None:
            inner.taken = taken
        yield
    finally:
        _inner.now = before
        if inner is not None:
            inner.taken = was


def innermost() -> InnerGradient | None:
    """The inner gradient whose forward pass this is; None outside of any."""
    return getattr(_inner, "now", None)


class _Substituted(torch.autograd.Function):
    """A value y, whose inner gradient is that of an x by a rule."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor, y: Tensor, inner: InnerGradient | None, rule: GradientRule
    ) -> Tensor:
        return y.view_as(y)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        _, _, ctx.inner, ctx.rule = inputs

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple:
        taken = ctx.inner is not None and ctx.inner.taken
        return (ctx.rule(g), None, None, None) if taken else (None, g, None, None)

    @staticmethod
    def jvp(ctx: Any, x_tangent: Tensor, y_tangent: Tensor, *_: Any) -> Tensor:
        return y_tangent.view_as(y_tangent)


def stop(y: Any) -> Any:
    """A value that the inner gradient takes for a constant, and nothing else does."""
    if not is_differentiable(y):
        return y
    return _Substituted.apply(y, y, innermost(), lambda g: None)


class _Constant(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.mark_non_differentiable(output)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> None:
        return None

    @staticmethod
    def jvp(ctx: Any, x_tangent: Tensor) -> None:
        return None


def constant(x: Tensor) -> Tensor:
    """A value that every derivative takes for a constant."""
    return _Constant.apply(x)


def _stopped_copy(y: Any) -> Any:
    """The same for what may be written into later on."""
    return stop(y.clone()) if is_differentiable(y) else y


def hooked(x: Tensor, hooks: Sequence[GradientRule]) -> Tensor:
    """A tensor whose inner gradient goes through hooks of `Tensor.register_hook`."""

    def through(g: Tensor) -> Tensor:
        for hook in hooks:
            changed = _call_hook(hook, g)
            g = g if changed is None else changed
        return g

    return _Substituted.apply(x, x, innermost(), through)


def _overwrite(x: Tensor, y: Tensor) -> Tensor:
    """Write y into x; the inner gradient sees nothing of that."""
    return x.copy_(_Substituted.apply(x, y, innermost(), lambda g: g))


def _names(*names: str) -> set[Any]:
    return {getattr(Tensor, name) for name in names}


_DETACHED = _names("detach") | {torch.detach, Tensor.data.__get__}  # type: ignore[attr-defined]
_COPIES = {torch.tensor: 0, Tensor.new_tensor: 1}
_NUMBERS = _names("item", "tolist", "__float__", "__int__", "__complex__")
_ARRAYS = _names("numpy", "__array__")
_NO_REMEDY = {
    Tensor.detach_: "Tensor.detach_()",
    Tensor.register_post_accumulate_grad_hook: "register_post_accumulate_grad_hook()",
    Tensor.data.__set__: "assignment to Tensor.data",  # type: ignore[attr-defined]
}


class StopGradients(TorchFunctionMode):
    """Within it, what stops gradients or hooks into them acts on the inner ones alone.

    `detach`, `.data`, `torch.tensor(x)`, whatever runs under `no_grad` or
    `inference_mode`, `autograd.grad` without `create_graph`, and `register_hook`.

    Args:
        error: relative error of numbers that leave the tensors by `.item()` or
            `.numpy()`; where results change with it, a derivative is missing.

    Attributes:
        used: whether any of them was met, or may be where values are others.
        numbers: functions by which numbers left tensors that have derivatives.

    Raises:
        ValueError: within it, where the graph is left for good.
    """

    def __init__(self, error: float = 0.0) -> None:
        super().__init__()
        self._enabled = torch.is_grad_enabled()
        self._depth = transform_depth()
        self._error = error
        self.used = False
        self.numbers: list[str] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Call a function, or what replaces it."""
        kwargs = kwargs or {}
        # Another value may take another branch, with stops of its own.
        self.used |= func is Tensor.__bool__
        if not _live((args, kwargs)) or _is_collective(func):
            return func(*args, **kwargs)
        if func in _DETACHED:
            self._use()
            return stop(args[0])
        if func in _COPIES and _live(args[_COPIES[func]]):
            self._use()
            x = args[_COPIES[func]]
            return stop(x).to(kwargs.get("dtype", x.dtype), copy=True)
        if func in _NUMBERS or func in _ARRAYS:
            return self._number(func, args, kwargs)
        if func is Tensor.register_hook:
            self._use()
            return _register_hook(*args, **kwargs)
        if func is torch.autograd.grad:
            return self._nested(func, args, kwargs)
        _refuse_if_left(func)
        args, kwargs = _apart(func, args, kwargs)
        if self._enabled and not torch.is_grad_enabled():
            self._use()
            return _within_no_grad(func, args, kwargs)
        try:
            return func(*args, **kwargs)
        except RuntimeError as error:
            if _Substituted.__name__ not in str(error):
                raise
            raise ValueError(
                f"raymeta cannot differentiate past {func.__name__}() on a detached "
                "tensor, which changes the tensor it is a view of: write into a copy, "
                "or keep the value in a buffer"
            ) from error

    def _use(self) -> None:
        self.used = True
        if transform_depth() > self._depth:
            raise ValueError(
                "raymeta cannot tell which derivative a stopped gradient or a hook is "
                "meant for within a torch.func transform of the forward pass itself: "
                "use torch.autograd.grad(..., create_graph=True) there"
            )

    def _number(self, func: Any, args: tuple, kwargs: dict) -> Any:
        """What leaves the tensors: numbers have no derivative."""
        x = args[0].detach()
        self.numbers.append(func.__name__)
        self.used = True
        if self._error and is_differentiable(x):
            x = x * (1 + self._error)
        return func(x, *args[1:], **kwargs)

    def _nested(self, func: Any, args: tuple, kwargs: dict) -> Any:
        """A gradient within the forward pass, of a force or a penalty."""
        alone = not kwargs.get("create_graph", False)
        if not alone and transform_depth() > self._depth:
            return func(*args, **kwargs)  # a transform's own; stops in it were refused
        self._use()
        inner = innermost() or InnerGradient()
        with torch.enable_grad(), inner.being_taken():
            grads = func(*args, **{**kwargs, "create_graph": True})
        return tree_map(stop, grads) if alone else grads


def _live(tree: Any) -> bool:
    """Whether there is a tensor that a derivative may be taken by."""
    if in_transform():
        return any(is_differentiable(x) for x in tree_leaves(tree))
    return any(isinstance(x, Tensor) and x.requires_grad for x in tree_leaves(tree))


def _is_collective(func: Any) -> bool:
    """Whether it sends to other ranks: it must get the very tensor, and be waited for.

    It writes into that, or what waits for its result must see this and no copy of it.
    """
    home = getattr(func, "__module__", None) or ""
    return home.startswith(("torch.distributed", "torch._ops._c10d_functional"))


def _apart(func: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """The arguments, but copies of what may be written into later.

    A stopped value that is written into a buffer gives it a graph, in which what was
    computed from the buffer before needs its former values.
    """
    inner = innermost()
    if inner is None or not inner.written or func.__name__ == "__get__":
        return args, kwargs

    def copy(x: Any) -> Any:
        return x.clone() if any(x is buffer for buffer in inner.written) else x

    first = args[:1] if _writes(func, kwargs) else ()
    out = {"out": kwargs["out"]} if "out" in kwargs else {}
    with torch.inference_mode(False), torch.enable_grad():  # no_grad is seen to later
        rest, others = tree_map(copy, (args[len(first) :], kwargs))
    return (*first, *rest), others | out


def _register_hook(x: Tensor, hook: GradientRule) -> Any:
    inner = innermost()

    def guarded(g: Tensor) -> Tensor | None:
        return _call_hook(hook, g) if inner is not None and inner.taken else None

    return x.register_hook(guarded)


def _call_hook(hook: GradientRule, g: Tensor) -> Tensor | None:
    """What a hook gives; a step is differentiated through what it stops, too.

    Raises:
        ValueError: it draws random numbers, or from a number that left the graph.
    """
    drawn = None if torch.compiler.is_compiling() else torch.get_rng_state()
    if torch.is_grad_enabled():
        with StopGradients() as mode:
            changed = hook(g)
        if mode.numbers:
            require_no_numbers("a hook on gradients", hook, (g,), changed, mode)
    else:
        changed = hook(g)
    if drawn is not None and not torch.equal(drawn, torch.get_rng_state()):
        raise ValueError(
            "raymeta cannot seed a hook on gradients, which draws random numbers: draw "
            "them in forward, where they are seeded by (seed, step)"
        )
    return changed


def _refuse_if_left(func: Any) -> None:
    """Raise ValueError where a function leaves the graph for good."""
    if func in _NO_REMEDY:
        raise ValueError(
            f"raymeta cannot differentiate past {_NO_REMEDY[func]} in a forward pass: "
            "use detach(), copy_() or register_hook()"
        )
    if func in (Tensor.backward, torch.autograd.backward):
        raise ValueError(
            "raymeta cannot differentiate past backward() in a forward pass, which "
            "writes into .grad: use torch.autograd.grad(..., create_graph=True)"
        )


def _within_no_grad(func: Any, args: tuple, kwargs: dict) -> Any:
    """A call under `no_grad`: with its graph, which the inner gradient does not see."""
    out = kwargs.pop("out", None)
    with torch.inference_mode(False), torch.enable_grad():
        if _writes(func, kwargs):
            target, *others = args
            changed = target.clone()
            others, kwargs = tree_map(_stopped_copy, (others, kwargs))
            result = func(changed, *others, **kwargs)
            _overwrite(target, changed)
            return target if result is changed else result
        args, kwargs = tree_map(_stopped_copy, (args, kwargs))
        result = func(*args, **kwargs)
        return result if out is None else tree_map(_overwrite, out, result)


def _writes(func: Any, kwargs: dict) -> bool:
    """Whether a function writes into its first argument."""
    name = getattr(func, "__name__", "")
    if name.startswith("__"):
        inplace = name.startswith("__i") and name not in ("__index__", "__invert__")
        return inplace or name == "__setitem__"
    return name.endswith("_") or bool(kwargs.get("inplace"))


#: Relative error of numbers that shows whether results depend on them.
_PROBE = 2.0**-7


def require_no_numbers(
    name: str,
    function: Callable[..., Any],
    args: tuple,
    result: Any,
    mode: StopGradients,
) -> None:
    """Raise ValueError where a result depends on numbers that left the graph."""
    with StopGradients(_PROBE):
        other = function(*args)
    pairs = zip(tree_leaves(result), tree_leaves(other), strict=True)
    if any(isinstance(x, Tensor) and not _same(x, y) for x, y in pairs):
        listed = ", ".join(f"Tensor.{number}()" for number in sorted({*mode.numbers}))
        raise ValueError(
            f"raymeta needs {name} to compute with tensors, but its result "
            f"depends on a number that {listed} gave, which has no derivative: "
            "compute with the tensor itself"
        )


def _same(x: Tensor, y: Tensor) -> bool:
    """Whether two results are equal; of diverged runs, where NaN equals NaN."""
    return x.shape == y.shape and bool(((x == y) | ((x != x) & (y != y))).all())
