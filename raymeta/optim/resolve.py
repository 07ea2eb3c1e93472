"""Optimizers as functions of λ: what problems take for `optimizer`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from raymeta.optim.base import Optimizer
from raymeta.types import Hparams

RULE = "lambda h: raymeta.optim.sgd(h['lr'])"
FROM_TORCH = "raymeta.optim.from_torch(...)"


def require_maker(optimizer: Any) -> None:
    """Raise ValueError unless it can be what makes an update rule from λ."""
    function = optimizer.func if isinstance(optimizer, partial) else optimizer
    if isinstance(function, Optimizer):
        raise _refusal("got the rule itself", "put `lambda h:` before it")
    if isinstance(function, torch.optim.Optimizer):
        seen = f"got a torch.optim.{type(function).__name__}"
        raise _refusal(seen, f"write lambda h: {FROM_TORCH}, or {RULE} to learn of it")
    if isinstance(function, type) and issubclass(function, torch.optim.Optimizer):
        seen = f"got the class torch.optim.{function.__name__}"
        raise _refusal(seen, f"write {RULE}, or lambda h: {FROM_TORCH}")
    if not callable(function):
        raise _refusal(f"got {_kind(function)}", f"write {RULE}")
    # None, where it was made by `exec`.
    if (getattr(function, "__module__", None) or "").startswith("raymeta.optim"):
        name = f"raymeta.optim.{function.__name__}"
        raise _refusal(f"got {name}", f"write lambda h: {name}(h['lr'])")


def made(optimizer: Callable[[Hparams], Optimizer], hparams: Hparams) -> Optimizer:
    """The update rule at λ.

    Raises:
        ValueError: what comes is none.
    """
    rule = optimizer(hparams)
    if not isinstance(rule, Optimizer):
        remedy = f"write {RULE}"
        if isinstance(rule, torch.optim.Optimizer):
            remedy += f", or {FROM_TORCH} around it"
        raise _refusal(f"it returned {_kind(rule)}", remedy)
    return rule


def _kind(value: Any) -> str:
    if isinstance(value, torch.optim.Optimizer):
        return f"a torch.optim.{type(value).__name__}"
    return "None" if value is None else f"a {type(value).__name__}"


def _refusal(seen: str, remedy: str) -> ValueError:
    return ValueError(
        f"optimizer must be a function from λ to a rule of raymeta.optim, but {seen}: "
        f"{remedy}"
    )
