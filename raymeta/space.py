"""The one search space: black-box search samples from it, hypergradients walk in it.

A hyperparameter has a *natural* value, which users and frames see, and an
*unconstrained* coordinate, in which gradient descent walks: log for `Positive`,
logit for `Unit`, the value itself for `Real`.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any, ClassVar

import torch
from torch import Tensor

from raymeta.suggest import unknown
from raymeta.types import Hparams, Tensors


@dataclass(frozen=True)
class _Continuous:
    """A tensor-valued continuous hyperparameter with element-wise bounds.

    Attributes:
        initial: starting value: a number, or nested sequences / a tensor that
            broadcast to `shape`.
        low: lower bound; black-box search needs it finite.
        high: upper bound; likewise.
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
        if not self.low < self.high:
            raise ValueError(
                f"{kind} needs low < high, but got low={self.low}, high={self.high}: "
                "swap or widen the bounds"
            )
        start = torch.as_tensor(self.initial, dtype=torch.float64)
        if not bool(((start >= self.low) & (start <= self.high)).all()):
            raise ValueError(
                f"{kind} needs low <= initial <= high, but got initial={self.initial}, "
                f"low={self.low}, high={self.high}: move the start or the bounds"
            )
        if not bool(torch.isfinite(self.unconstrained(start)).all()):
            raise ValueError(
                f"{kind} needs a start strictly inside its natural range, but got "
                f"initial={self.initial}: move it off the boundary, or use Real with "
                "bounds"
            )
        if not _broadcasts(start.shape, self.shape):
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
class Positive(_Continuous):
    """A positive value: walks in log λ, sampled log-uniformly between its bounds."""

    low: float = 0.0
    high: float = math.inf
    REACH: ClassVar[float] = 87.0

    def __post_init__(self) -> None:
        if self.low < 0:
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
class Unit(_Continuous):
    """A value in (0, 1): walks in logit λ, sampled uniformly between its bounds."""

    low: float = 0.0
    high: float = 1.0
    REACH: ClassVar[float] = 15.9

    def __post_init__(self) -> None:
        if self.low < 0 or self.high > 1:
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
class Real(_Continuous):
    """Any real value: walks in λ itself, sampled uniformly between its bounds."""

    low: float = -math.inf
    high: float = math.inf


@dataclass(frozen=True)
class Choice:
    """One of several values of any type; black-box search picks, gradients do not.

    Attributes:
        options: the values.
        initial: the one to start from; the first by default.
    """

    options: Sequence[Any]
    initial: Any = None

    def __post_init__(self) -> None:
        if not self.options:
            raise ValueError("Choice needs at least one option, but got none")
        if self.initial is None:
            object.__setattr__(self, "initial", self.options[0])
        if self.initial not in self.options:
            raise ValueError(
                f"Choice needs initial among its options {list(self.options)}, but got "
                f"{self.initial!r}"
            )


Domain = Positive | Unit | Real | Choice


class Space(Mapping[str, Domain]):
    """Named hyperparameters with their domains.

    `Space(lr=Positive(0.1, low=1e-3, high=1.0), momentum=Unit(0.9))`. Flat names
    are `name` for a scalar, `name[i]` or `name[i,j]` for elements of a tensor.

    Raises:
        ValueError: an entry is not a domain.
    """

    def __init__(self, **domains: Domain) -> None:
        for name, domain in domains.items():
            if not isinstance(domain, _Continuous | Choice):
                raise ValueError(
                    f"hyperparameter {name!r} needs Positive, Unit, Real or Choice, "
                    f"but got {domain!r}"
                )
        self._domains = dict(domains)

    def __getitem__(self, name: str) -> Domain:
        if name not in self._domains:
            raise unknown("hyperparameter", name, self._domains)
        return self._domains[name]

    def __contains__(self, name: object) -> bool:
        return name in self._domains

    def __iter__(self) -> Iterator[str]:
        return iter(self._domains)

    def __len__(self) -> int:
        return len(self._domains)

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}={domain}" for name, domain in self.items())
        return f"Space({inside})"

    @property
    def continuous(self) -> dict[str, _Continuous]:
        """The domains that gradients can walk in."""
        return {k: d for k, d in self.items() if isinstance(d, _Continuous)}

    @property
    def choices(self) -> dict[str, Choice]:
        """The discrete domains."""
        return {k: d for k, d in self.items() if isinstance(d, Choice)}

    def initial(self, dtype: torch.dtype | None = None) -> Hparams:
        """Natural starting values; `dtype` defaults to torch's default."""
        dtype = dtype or torch.get_default_dtype()
        start = {name: d.start(dtype) for name, d in self.continuous.items()}
        return start | {name: d.initial for name, d in self.choices.items()}

    def centre(self, dtype: torch.dtype | None = None) -> Hparams:
        """The median of black-box search's samples; choices stay at their initial."""
        dtype = dtype or torch.get_default_dtype()
        middle = {
            name: torch.full(d.shape, d.centre(), dtype=dtype)
            for name, d in self.continuous.items()
        }
        return middle | {name: d.initial for name, d in self.choices.items()}

    def unconstrained(self, hparams: Hparams) -> Tensors:
        """The coordinates of the continuous hyperparameters, by name."""
        self.check(hparams)
        return {k: d.unconstrained(hparams[k]) for k, d in self.continuous.items()}

    def natural(self, coordinates: Tensors) -> Tensors:
        """The natural values at unconstrained coordinates."""
        return {k: d.natural(coordinates[k]) for k, d in self.continuous.items()}

    def project(self, coordinates: Tensors) -> Tensors:
        """The nearest coordinates within the bounds, and within `REACH`."""

        def clamp(domain: _Continuous, coordinate: Tensor) -> Tensor:
            bounds = torch.tensor([domain.low, domain.high], dtype=torch.float64)
            low, high = domain.unconstrained(bounds).tolist()
            return coordinate.clamp(max(low, -domain.REACH), min(high, domain.REACH))

        return {k: clamp(d, coordinates[k]) for k, d in self.continuous.items()}

    def check(self, hparams: Mapping[str, Any]) -> None:
        """Raise ValueError unless `hparams` has this space's names and shapes."""
        for name in hparams:
            self[name]
        for name, domain in self.items():
            if name not in hparams:
                raise ValueError(
                    f"hyperparameter {name!r} is missing: got {sorted(hparams)}, the "
                    f"space has {sorted(self)}"
                )
            if isinstance(domain, _Continuous):
                value = hparams[name]
                if not isinstance(value, Tensor):
                    raise ValueError(
                        f"hyperparameter {name!r} needs a tensor of shape "
                        f"{tuple(domain.shape)}, but got {value!r}"
                    )
                shape = tuple(value.shape)
                if shape != tuple(domain.shape):
                    raise ValueError(
                        f"hyperparameter {name!r} needs shape {tuple(domain.shape)}, "
                        f"but got {shape}"
                    )

    def flat_domains(self) -> dict[str, Domain]:
        """One domain per scalar element, by flat name."""
        return {
            flat: domain
            for name, domain in self.items()
            for flat in _flat_names(name, domain)
        }

    def flatten(self, hparams: Hparams) -> dict[str, Any]:
        """Scalars by flat name: floats, and choices as they are."""
        flat: dict[str, Any] = {}
        for name, domain in self.items():
            names = _flat_names(name, domain)
            if isinstance(domain, _Continuous):
                values = hparams[name].detach().flatten().tolist()
                flat |= dict(zip(names, values, strict=True))
            else:
                flat[name] = hparams[name]
        return flat

    def unflatten(
        self, flat: Mapping[str, Any], dtype: torch.dtype | None = None
    ) -> Hparams:
        """Natural values from scalars by flat name; the inverse of `flatten`."""
        dtype = dtype or torch.get_default_dtype()
        known = self.flat_domains()
        for name in flat:
            if name not in known:
                raise unknown("hyperparameter", name, known)
        for name in known:
            if name not in flat:
                raise ValueError(
                    f"hyperparameter {name!r} is missing: got {list(flat)}"
                )
        hparams: Hparams = {}
        for name, domain in self.items():
            if isinstance(domain, _Continuous):
                values = [flat[element] for element in _flat_names(name, domain)]
                value = torch.tensor(values, dtype=dtype)
                hparams[name] = value.reshape(domain.shape)
            else:
                hparams[name] = flat[name]
        return hparams


def _flat_names(name: str, domain: Domain) -> list[str]:
    if isinstance(domain, Choice) or domain.shape == ():
        return [name]
    return _element_names(name, tuple(domain.shape))


@lru_cache(maxsize=64)
def _element_names(name: str, shape: tuple[int, ...]) -> list[str]:
    indices = product(*map(range, shape))
    return [f"{name}[{','.join(map(str, index))}]" for index in indices]


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    """Whether a tensor of this shape expands to another."""
    ends = zip(reversed(shape), reversed(to), strict=False)
    return len(shape) <= len(to) and all(n in (1, m) for n, m in ends)
