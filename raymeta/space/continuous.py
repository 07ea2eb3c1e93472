"""Continuous hyperparameters: tensors between bounds, each with its own coordinate."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, ClassVar

import torch
from torch import Tensor

from raymeta.errors import said


@dataclass(frozen=True)
class Continuous:
    """A tensor-valued continuous hyperparameter with element-wise bounds.

    Attributes:
        initial: starting value: a number, or nested sequences / a tensor that
            broadcast to `shape`.
        low: lower bound; black-box search needs it finite.
        high: upper bound, finite for black-box search too.
        shape: shape of the tensor; () is a scalar.
    """

    initial: Any
    low: float
    high: float
    shape: tuple[int, ...] = ()

    #: The farthest coordinate that descent walks to on either side: beyond it single
    #: precision cannot tell the natural value from the end of its range.
    REACH: ClassVar[float] = math.inf

    def __post_init__(self) -> None:
        kind = type(self).__name__
        object.__setattr__(self, "shape", _shape(kind, self.shape))
        for name in ("low", "high"):
            bound = _bound(kind, name, getattr(self, name))
            _require_held(kind, name, bound)
            object.__setattr__(self, name, bound)
        if not self.low < self.high:
            raise ValueError(
                f"{kind} needs low < high, but got low={self.low}, high={self.high}: "
                "swap or widen the bounds"
            )
        start = _numbers(kind, self.initial)
        if not bool(((start >= self.low) & (start <= self.high)).all()):
            raise ValueError(
                f"{kind} needs low <= initial <= high, but got "
                f"initial={said(self.initial)}, low={self.low}, high={self.high}: move "
                "the start or the bounds"
            )
        for dtype in (torch.float64, torch.get_default_dtype()):
            if not bool(torch.isfinite(self.unconstrained(start.to(dtype))).all()):
                raise ValueError(
                    f"{kind} needs a start strictly inside its natural range, but got "
                    f"initial={said(self.initial)}{_seen_by(dtype)}: move it off the "
                    "boundary, or use Real with bounds"
                )
        if not _broadcasts(tuple(start.shape), self.shape):
            raise ValueError(
                f"{kind} needs an initial value that broadcasts to shape={self.shape}, "
                f"but got one of shape {tuple(start.shape)}: reshape it"
            )

    def start(self, dtype: torch.dtype) -> Tensor:
        """The initial natural value, of shape `shape`."""
        value = torch.as_tensor(self.initial, dtype=dtype).detach()
        return value.expand(self.shape).clone()

    def unconstrained(self, value: Tensor) -> Tensor:
        """The unconstrained coordinate of a natural value."""
        return value

    def natural(self, coordinate: Tensor) -> Tensor:
        """The natural value at an unconstrained coordinate."""
        return coordinate

    def centre(self) -> float:
        """The median of what black-box search samples."""
        self.require_bounds("the centre")
        low, high = (torch.tensor(b, dtype=torch.float64) for b in self.sampled)
        middle = self.unsampled((low + high) / 2)
        return float(middle)

    @property
    def sampled(self) -> tuple[float, float]:
        """The bounds in the coordinate that black-box search samples uniformly."""
        return self.low, self.high

    def unsampled(self, coordinate: Tensor) -> Tensor:
        """The natural value at a uniformly sampled coordinate."""
        return coordinate

    def require_bounds(self, why: str) -> None:
        """Raise ValueError unless both bounds are finite."""
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            raise ValueError(
                f"{why} needs finite bounds, but got low={self.low}, high={self.high}: "
                "give low= and high="
            )


@dataclass(frozen=True)
class Positive(Continuous):
    """A positive value: walks in log λ, sampled log-uniformly between its bounds.

    Attributes: see `Continuous`.
    """

    low: float = 0.0
    high: float = math.inf
    REACH: ClassVar[float] = 87.0

    def __post_init__(self) -> None:
        if _bound("Positive", "low", self.low) < 0:
            raise ValueError(
                f"Positive needs low >= 0, but got low={self.low}: use Real for values "
                "of either sign"
            )
        super().__post_init__()

    def unconstrained(self, value: Tensor) -> Tensor:
        """Log of the natural value."""
        return torch.log(value)

    def natural(self, coordinate: Tensor) -> Tensor:
        """Exp of the coordinate."""
        return torch.exp(coordinate)

    @property
    def sampled(self) -> tuple[float, float]:
        """Log of the bounds."""
        return math.log(self.low), math.log(self.high)

    def unsampled(self, coordinate: Tensor) -> Tensor:
        """Exp of the sampled coordinate."""
        return torch.exp(coordinate)

    def require_bounds(self, why: str) -> None:
        """Raise ValueError unless both bounds are finite and positive."""
        super().require_bounds(why)
        if self.low == 0:
            raise ValueError(
                f"{why} of a Positive needs low > 0, but got low=0.0: give the "
                "smallest value worth trying"
            )


@dataclass(frozen=True)
class Unit(Continuous):
    """A value in (0, 1): walks in logit λ, sampled uniformly between its bounds.

    Attributes: see `Continuous`.
    """

    low: float = 0.0
    high: float = 1.0
    REACH: ClassVar[float] = 15.9

    def __post_init__(self) -> None:
        low, high = (_bound("Unit", n, getattr(self, n)) for n in ("low", "high"))
        if low < 0 or high > 1:
            raise ValueError(
                f"Unit needs 0 <= low and high <= 1, but got low={self.low}, "
                f"high={self.high}: use Real for other ranges"
            )
        super().__post_init__()

    def unconstrained(self, value: Tensor) -> Tensor:
        """Logit of the natural value."""
        return torch.logit(value)

    def natural(self, coordinate: Tensor) -> Tensor:
        """Sigmoid of the coordinate."""
        return torch.sigmoid(coordinate)


@dataclass(frozen=True)
class Real(Continuous):
    """Any real value: walks in λ itself, sampled uniformly between its bounds.

    Attributes: see `Continuous`.
    """

    low: float = -math.inf
    high: float = math.inf


def _shape(kind: str, shape: Any) -> tuple[int, ...]:
    sizes = (shape,) if isinstance(shape, Integral) else shape
    if not isinstance(sizes, Sequence) or not all(
        isinstance(n, Integral) and int(n) >= 1 for n in sizes
    ):
        raise ValueError(
            f"{kind} needs a shape of positive whole numbers, but got "
            f"shape={said(shape)}: give a tuple such as (3,), or leave it out for a "
            "scalar"
        )
    return tuple(map(int, sizes))


def _bound(kind: str, name: str, bound: Any) -> float:
    if type(bound) is float or (type(bound) is int and abs(bound) < 2**63):
        return bound
    try:
        return float(_numbers(kind, bound))
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"{kind} needs a number as {name}, but got {name}={said(bound)}: the bound "
            "is the same for all elements"
        ) from error


def _require_held(kind: str, name: str, bound: float) -> None:
    """Raise ValueError unless the dtype of λ can hold a bound, or it is 0 or ±∞."""
    dtype = torch.get_default_dtype()
    limits = torch.finfo(dtype)
    if bound and math.isfinite(bound) and not limits.tiny <= abs(bound) <= limits.max:
        raise ValueError(
            f"{kind} needs bounds that {_name(dtype)} can hold, {limits.tiny:.2g} to "
            f"{limits.max:.2g} in size, but got {name}={bound}: leave it out, or move "
            "it"
        )


def _seen_by(dtype: torch.dtype) -> str:
    """That a value was rounded first, in a message."""
    return "" if dtype == torch.float64 else f", as {_name(dtype)} holds it"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _numbers(kind: str, value: Any) -> Tensor:
    """The same in double precision, cut from any graph."""
    try:
        if isinstance(value, Tensor) and value.is_complex():
            raise TypeError("complex")
        return torch.as_tensor(value, dtype=torch.float64).detach()
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(
            f"{kind} needs an initial value of real numbers, but got initial="
            f"{said(value)}: give a number, nested lists of them, or a tensor"
        ) from error


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    """Whether a tensor of this shape expands to another."""
    ends = zip(reversed(shape), reversed(to), strict=False)
    return len(shape) <= len(to) and all(n in (1, m) for n, m in ends)
