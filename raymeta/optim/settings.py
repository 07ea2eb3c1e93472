"""Settings of an optimizer: how numbers are given, checked and looked up."""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Schedule:
    """A setting that changes over the run: one value per step.

    Attributes:
        values: shape (T, ...); values[t] broadcasts against the parameter. Past the
            end the last value holds.
    """

    values: Tensor

    def __post_init__(self) -> None:
        if not isinstance(self.values, Tensor) or self.values.ndim == 0:
            raise ValueError(
                "Schedule needs a tensor of shape (T, ...), but got "
                f"{_kind(self.values)}: write Schedule(torch.tensor([...]))"
            )

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


class At:
    """The settings of one parameter at one step, as attributes.

    Numbers, or tensors that broadcast against the parameter.
    """

    # Not a SimpleNamespace: torch.compile cannot trace one.
    def __init__(self, values: Mapping[str, float | Tensor]) -> None:
        self._values = values

    def __getattr__(self, name: str) -> Any:
        return self._values[name]

    def pairwise(self) -> At:
        """The same for a parameter whose elements are pairs, in a last dimension."""
        return At(
            {
                name: x.unsqueeze(-1) if isinstance(x, Tensor) and x.ndim else x
                for name, x in self._values.items()
            }
        )

    def items(self) -> ItemsView[str, float | Tensor]:
        """(name, value) of all of them."""
        return self._values.items()


class Settings:
    """The settings of one optimizer by name.

    Numbers are checked here, tensors are not: reading them would wait for the device.

    Args:
        optimizer: name of the optimizer, for errors.
        nonnegative: settings that are at least 0.
        fractions: settings in [0, 1).

    Attributes:
        optimizer: its name.
        given: all of them.

    Raises:
        ValueError: a number outside its range; something else than a `Setting`.
    """

    def __init__(
        self,
        optimizer: str,
        *,
        nonnegative: Mapping[str, Setting],
        fractions: Mapping[str, Setting] | None = None,
    ) -> None:
        fractions = fractions or {}
        self.optimizer = optimizer
        for name, setting in nonnegative.items():
            _require(optimizer, name, setting, ">= 0.0", lambda x: x >= 0)
        for name, setting in fractions.items():
            _require(optimizer, name, setting, "in [0.0, 1.0)", lambda x: 0 <= x < 1)
        self.given = {**nonnegative, **fractions}

    def at(self, t: Tensor) -> Callable[[str], At]:
        """The settings at step t, as a function of the parameter's name.

        Raises:
            ValueError: a mapping has no entry for the parameter; a tensor given for all
                parameters has more than one dimension.
        """
        shared: dict[str, float | Tensor] = {}
        mapped: dict[str, Mapping[str, Value]] = {}
        for key, setting in self.given.items():
            if isinstance(setting, Mapping):
                mapped[key] = setting
            else:
                shared[key] = _shared_value(setting, t)

        everyones = At(shared)

        def of(name: str) -> At:
            if not mapped:
                return everyones
            own = {key: _own_value(m, name, t) for key, m in mapped.items()}
            return At({**shared, **own})

        return of

    def require_fit(self, at: At, name: str, shape: torch.Size) -> None:
        """Raise ValueError unless settings broadcast against their parameter.

        Args:
            at: the settings.
            name: name of the parameter.
            shape: shape of the parameter.
        """
        for key, value in at.items():
            if not isinstance(value, Tensor):
                continue
            ends = zip(reversed(value.shape), reversed(shape), strict=False)
            fits = value.ndim <= len(shape) and all(n in (1, m) for n, m in ends)
            if not fits or value.is_complex():
                raise ValueError(
                    f"{self.optimizer} needs a real {key} that broadcasts to parameter"
                    f" {name!r} of shape {tuple(shape)}, but got "
                    f"{tuple(value.shape)} of {value.dtype}: give shape () for all "
                    "parameters, or a mapping from their names"
                )


def is_zero(setting: Setting) -> bool:
    """Whether a setting is the plain number 0, so that its term is left out.

    A *tensor* that happens to be 0 stays in the computation: it has a derivative.
    """
    return isinstance(setting, int | float) and setting == 0


def _require(
    optimizer: str, name: str, setting: Setting, rule: str, holds: Callable[..., bool]
) -> None:
    values = setting.values() if isinstance(setting, Mapping) else [setting]
    for value in values:
        _require_kind(optimizer, name, value)
        if not isinstance(value, int | float):
            continue
        if not holds(value):
            raise ValueError(f"{optimizer} needs {name} {rule}, but got {value}")
        limits = torch.finfo(torch.get_default_dtype())
        if value and not limits.tiny <= abs(value) <= limits.max:
            raise ValueError(
                f"{optimizer} needs {name} of a size that {limits.dtype} holds, "
                f"{limits.tiny:.2g} to {limits.max:.2g}, but got {value}: in a step it "
                "would be 0 or infinite"
            )


def _require_kind(optimizer: str, name: str, value: Any) -> None:
    if isinstance(value, int | float | Tensor | Schedule):
        return
    remedy = "give one of these"
    if callable(value):
        remedy = "for a schedule Schedule(torch.tensor([f(t) for t in range(T)]))"
    elif isinstance(value, Sequence) and not isinstance(value, str):
        remedy = "torch.tensor([...]) has one value per step"
    elif isinstance(value, Real):  # of numpy
        remedy = "float(value)"
    raise ValueError(
        f"{optimizer} needs {name} as a number, a tensor, a Schedule, or a mapping from"
        f" parameter names to these, but got {_kind(value)}: {remedy}"
    )


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return "None" if value is None else f"a {type(value).__name__}"


def _shared_value(setting: Value, t: Tensor) -> float | Tensor:
    """The value for all parameters."""
    if isinstance(setting, Tensor) and setting.ndim == 1:
        setting = Schedule(setting)
    if isinstance(setting, Tensor) and setting.ndim > 1:
        raise ValueError(
            "a setting for all parameters needs shape () or (T,), but got "
            f"{tuple(setting.shape)}: give a mapping from parameter names, or a "
            "Schedule"
        )
    return setting.at(t) if isinstance(setting, Schedule) else setting


def _own_value(setting: Mapping[str, Value], name: str, t: Tensor) -> float | Tensor:
    """The value at the longest prefix of the parameter's name."""
    prefix = name
    while prefix not in setting:
        if "." not in prefix:
            raise ValueError(
                f"a setting per parameter needs an entry for {name!r} or a prefix of "
                f"it, but got {sorted(setting)}"
            )
        prefix = prefix.rpartition(".")[0]
    value = setting[prefix]
    return value.at(t) if isinstance(value, Schedule) else value
