"""What an inner optimizer is, and how its numeric settings are looked up."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from raymeta.types import State, Tensors


class Optimizer(NamedTuple):
    """A differentiable update rule: a pair of pure functions.

    Attributes:
        init: params -> memory, the optimizer's state before the first step.
        update: (grads, memory, params, t) -> (params, memory); `t` is the step, an
            int64 tensor of shape (), by which schedules are looked up.
    """

    init: Callable[[Tensors], State]
    update: Callable[[Tensors, State, Tensors, Tensor], tuple[Tensors, State]]


@dataclass(frozen=True)
class Schedule:
    """A setting that changes over the run: one value per step.

    Attributes:
        values: shape (T, ...); values[t] broadcasts against the parameter. Past the
            end the last value holds.
    """

    values: Tensor

    def at(self, t: Tensor) -> Tensor:
        """The value at step t."""
        row = t.clamp(max=self.values.shape[0] - 1).reshape(1)
        return self.values.index_select(0, row).squeeze(0)


Value = float | Tensor | Schedule
#: A number or a tensor of shape () for all parameters; a tensor of shape (T,), or a
#: `Schedule`, for one value per step; or a mapping from a parameter's name, or a
#: dotted prefix of it (a layer), to a number, `Schedule`, or tensor that broadcasts
#: against it.
Setting = Value | Mapping[str, Value]


def setting_at(setting: Setting, name: str, t: Tensor) -> float | Tensor:
    """The value of an optimizer's setting for one parameter at one step.

    Raises:
        ValueError: a mapping has no entry for the parameter; a tensor given for all
            parameters has more than one dimension.
    """
    if isinstance(setting, Mapping):
        value = setting[_longest_prefix(setting, name)]
    else:
        value = _as_schedule(setting)
    return value.at(t) if isinstance(value, Schedule) else value


def is_zero(setting: Setting) -> bool:
    """Whether a setting is the plain number 0, so that its term is left out.

    A *tensor* that happens to be 0 stays in the computation: it has a derivative.
    """
    return isinstance(setting, int | float) and setting == 0


def require_range(
    optimizer: str, name: str, setting: Setting, low: float, below: float | None = None
) -> None:
    """Raise ValueError for a plain number outside [low, below).

    Tensors are not looked at: reading them would wait for the device.
    """
    values = setting.values() if isinstance(setting, Mapping) else [setting]
    for value in values:
        if not isinstance(value, int | float):
            continue
        if not (low <= value and (below is None or value < below)):
            rule = f">= {low}" if below is None else f"in [{low}, {below})"
            raise ValueError(f"{optimizer} needs {name} {rule}, but got {value}")


def zeros_like(params: Tensors) -> Tensors:
    """A zero for each parameter."""
    return {name: torch.zeros_like(p) for name, p in params.items()}


def safe_sqrt(x: Tensor) -> Tensor:
    """√x with derivative 0, not ∞, at x = 0.

    An unused weight has v = g² = 0 for ever: its derivative is 0 · 1/(2√0) = NaN in
    plain autograd, but the update does not depend on it at all.
    """
    positive = x > 0
    return torch.where(positive, torch.where(positive, x, 1.0).sqrt(), 0.0)


def _as_schedule(setting: Value) -> Value:
    if not isinstance(setting, Tensor) or setting.ndim == 0:
        return setting
    if setting.ndim == 1:
        return Schedule(setting)
    raise ValueError(
        "a setting for all parameters needs shape () or (T,), but got "
        f"{tuple(setting.shape)}: give a mapping from parameter names, or a Schedule"
    )


def _longest_prefix(setting: Mapping[str, Value], name: str) -> str:
    prefix = name
    while prefix not in setting:
        if "." not in prefix:
            raise ValueError(
                f"a setting per parameter needs an entry for {name!r} or a prefix of "
                f"it, but got {sorted(setting)}"
            )
        prefix = prefix.rpartition(".")[0]
    return prefix
