"""Modes that replace, and look at, the calls that training cannot use as they are.

A training step must be a pure function of tensors with all derivatives that any
estimator asks for. torch's random functions depend on a global generator, and some of
its fused kernels have no second or no forward derivative. `Substitutes` replaces both
wherever a module calls them.
"""

from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils import checkpoint
from torch.utils._python_dispatch import TorchDispatchMode

from raymeta.modules.counter_rng import Noise
from raymeta.modules.overrides import derivatives, losses, random

#: Function -> (noise, the function's own arguments) -> the function's own result, or
#: NotImplemented where the function may be used as it is.
RULES: dict[Any, Callable[..., Any]] = random.RULES | derivatives.RULES | losses.RULES
#: The rules in mixed precision.
MIXED_RULES = RULES | derivatives.MIXED_RULES


def _see_through(function: Any) -> Callable[..., Any]:
    """A function of `torch.nn` whose own calls a mode sees.

    A mode is off while it handles a call, and its functions hand themselves over to
    it, bodies included. This one does not.
    """
    names = ("has_torch_function", *_HANDS_OVER)
    scope = {**function.__globals__, **dict.fromkeys(names, _no)}
    body = FunctionType(function.__code__, scope, function.__name__)
    body.__defaults__ = function.__defaults__
    body.__kwdefaults__ = function.__kwdefaults__
    return body


def _no(*_: Any) -> bool:
    return False


_HANDS_OVER = ("has_torch_function_unary", "has_torch_function_variadic")
_INSIDE: dict[Any, Callable[..., Any]] = {
    function: _see_through(function)
    for function in (
        F.multi_head_attention_forward,
        F.gumbel_softmax,
        F.fractional_max_pool2d_with_indices,
        F.fractional_max_pool3d_with_indices,
    )
}
# Without indices they stand for functions of other names.
_INSIDE |= {
    F.fractional_max_pool2d: _see_through(F._fractional_max_pool2d),  # type: ignore[attr-defined]
    F.fractional_max_pool3d: _see_through(F._fractional_max_pool3d),  # type: ignore[attr-defined]
}


class Substitutes(TorchFunctionMode):
    """Within it, functions that have a rule follow their rule.

    Args:
        noise: where random numbers come from.
        mixed: whether precision is mixed.

    Attributes:
        used: whether a rule was followed.
    """

    def __init__(self, noise: Noise, mixed: bool = False) -> None:
        super().__init__()
        self._noise = noise
        self._rules = MIXED_RULES if mixed else RULES
        self.used = False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Call a function, or what replaces it."""
        kwargs = kwargs or {}
        if func in _INSIDE:
            with self:
                return _INSIDE[func](*args, **kwargs)
        rule = self._rules.get(func)
        own = kwargs.get("generator") is not None or kwargs.get("out") is not None
        if rule is None or own:
            return func(*args, **kwargs)
        result = rule(self._noise, *args, **kwargs)
        if result is NotImplemented:  # it has none for these settings
            return func(*args, **kwargs)
        self.used = True
        return result


class Inspection(TorchDispatchMode):
    """Looks at every operator that a module runs.

    Attributes:
        random: whether one drew from a global generator.

    Raises:
        ValueError: within it, where activations are to be computed again later.
    """

    def __init__(self) -> None:
        super().__init__()
        self.random = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Call an operator."""
        hooks = torch._C._autograd._top_saved_tensors_default_hooks(True)
        if hooks is not None and hooks[0].__module__ == checkpoint.__name__:
            raise ValueError(
                "raymeta cannot run torch.utils.checkpoint, which calls the "
                "module again when its weights are no longer those of the step: leave "
                "it out, and use the estimator Checkpointed"
            )
        if torch.Tag.nondeterministic_seeded in func.tags:
            self.random = True
        return func(*args, **(kwargs or {}))
