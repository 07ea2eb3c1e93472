"""Calls of pure functions, within `StopGradients` where they need it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from raymeta._tree import detach, in_transform, is_differentiable, tree_leaves
from raymeta.autograd.stop_gradient import StopGradients, require_no_numbers


class ThroughStops:
    """Runs pure functions within `StopGradients` where they need it.

    What a function needs is found out by its first call with derivatives by the same
    arguments.

    Args:
        name: what errors call the functions.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._needed: dict[tuple[bool, ...], bool] = {}
        self._sound: set[tuple[str, ...]] = set()

    def __call__(self, function: Callable[..., Any], *args: Any) -> Any:
        """function(*args).

        Raises:
            ValueError: the result depends on a number that left the graph.
        """
        live = _which_live(args)
        if not any(live) or not self._needed.get(live, True):
            return _plain(function, args)
        with StopGradients() as mode:
            result = function(*args)
        numbers = tuple(mode.numbers)
        if numbers and numbers not in self._sound:
            require_no_numbers(self._name, function, args, result, mode)
            self._sound.add(numbers)
        # Not before: what is refused is refused again.
        self._needed.setdefault(live, mode.used)
        return result


def _which_live(args: tuple) -> tuple[bool, ...]:
    """By which tensors a derivative may be taken."""
    if in_transform():
        return tuple(is_differentiable(x) for x in tree_leaves(args))
    return tuple(isinstance(x, Tensor) and x.requires_grad for x in tree_leaves(args))


def _plain(function: Callable[..., Any], args: tuple) -> Any:
    """function(*args), whether or not it takes derivatives of its own."""
    try:
        return function(*args)
    except RuntimeError as error:
        if torch.is_grad_enabled() or "does not require grad" not in str(error):
            raise
    # A force, or a penalty, is a gradient within the forward pass.
    with torch.enable_grad():
        return detach(function(*args))
