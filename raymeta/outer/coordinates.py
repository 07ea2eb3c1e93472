"""The search space as one flat vector of unconstrained coordinates."""

import math

import torch
from torch import Tensor

from raymeta.hypergrad.batched_problem import stack, unstack
from raymeta.space import Point, Real, Space, Unit
from raymeta.space.continuous import Continuous
from raymeta.types import Hparams, Tensors

#: How many units of x lie between the bounds of a `Real`.
UNITS_OF_RANGE = 8
#: Elements of smaller tensors are walked in as if each were a hyperparameter.
MANY = 8


#: How far from the start a search by values looks where there is no bound.
SEARCHED = 6.0
#: What it looks between in a `Unit` that may be 0, or 1: the logit of what is nearer to
#: these goes on without end, and changes little.
SEARCHED_UNIT = 0.05, 0.999


class Coordinates:
    """λ of a space ↔ x, a float64 vector of its unconstrained coordinates.

    A unit of x is a unit of log λ (`Positive`), of logit λ (`Unit`) or of λ (`Real`);
    for a `Real` between two bounds it is an eighth of the way from one to the other, so
    that the units in which such a λ is measured make no difference.

    x stays on the CPU: it is small, and not every device has float64. It may have a row
    for each of N runs, of which each has, to the last bit, what it has alone.

    Args:
        space: whose continuous hyperparameters are walked in, those that the initial
            options use; choices stay at these.
        device: where λ is needed; see `BilevelProblem.device`.
        start: λ at `start()`, in double precision; the initial values by default.

    Raises:
        ValueError: the space has no continuous hyperparameter.
    """

    def __init__(
        self,
        space: Space,
        device: torch.device | str = "cpu",
        start: Hparams | None = None,
    ) -> None:
        space = space.at(space.initial())
        if not space.continuous:
            raise ValueError(
                "hypergradient descent needs a continuous hyperparameter, but the "
                f"space has only {sorted(space)}: add Positive, Unit or Real"
            )
        self._space, self._device, self._start = space, device, start
        self._shapes = {k: d.shape for k, d in space.continuous.items()}
        self._choices = {k: d.initial for k, d in space.choices.items()}
        self._units = self._join(
            {
                k: torch.full(d.shape, unit_of(d), dtype=torch.float64)
                for k, d in space.continuous.items()
            }
        )
        #: Which coordinates are the elements of one tensor, where it has many.
        self.tensors: list[slice] = []
        end = 0
        for shape in self._shapes.values():
            begin, end = end, end + torch.Size(shape).numel()
            if end - begin >= MANY:
                self.tensors.append(slice(begin, end))

    def start(self) -> Tensor:
        """X at the space's initial values, or where a walk is to start."""
        if self._start is not None:
            return self.at(self._start)
        return self._join(self._space.unconstrained(self._initial())) / self._units

    def at(self, hparams: Hparams) -> Tensor:
        """X at natural values, moved into the bounds; shape (n,)."""
        return self.project(
            self._join(self._space.unconstrained(hparams)) / self._units
        )

    def hparams(self, x: Tensor) -> Hparams:
        """Natural values at x, on the device, in torch's default dtype."""
        if x.dim() > 1:
            return stack([self.hparams(row) for row in x])
        natural = self._space.natural(self._split(x))
        # In this order: on the device there may be no float64.
        values = {k: v.to(torch.get_default_dtype()) for k, v in natural.items()}
        return {k: v.to(self._device) for k, v in values.items()} | self._choices

    def point(self, x: Tensor) -> Point:
        """λ at x as a point."""
        return self._space.point(self.hparams(x))

    def gradient(self, x: Tensor, grads: Tensors) -> Tensor:
        """dE/dx from dE/dλ: the chain rule through the natural values.

        Non-finite entries, the mark of a diverged run, become 0: they say nothing.
        """
        if x.dim() > 1:
            each = zip(x, unstack(grads, len(x)), strict=True)
            return torch.stack([self.gradient(row, own) for row, own in each])
        x = x.detach().requires_grad_()
        natural = self._space.natural(self._split(x))
        cotangents = [grads[name].cpu().to(x.dtype) for name in natural]
        (gradient,) = torch.autograd.grad(list(natural.values()), x, cotangents)
        return torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)

    def project(self, x: Tensor) -> Tensor:
        """The nearest x within the space's bounds."""
        if x.dim() > 1:
            return torch.stack([self.project(row) for row in x])
        return self._join(self._space.project(self._split(x))) / self._units

    def box(self) -> tuple[Tensor, Tensor]:
        """Least and largest x that a search by values looks at, the start's included.

        The bounds, where they are finite in x; else a factor of 400 from the start, and
        for a `Unit` .05 or .999.
        """
        start, domains = self.start(), self._space.continuous
        ends = {name: _searched(domain) for name, domain in domains.items()}
        low, high = (
            self._join(
                {
                    name: torch.full(
                        domain.shape, ends[name][side], dtype=torch.float64
                    )
                    for name, domain in domains.items()
                }
            )
            / self._units
            for side in (0, 1)
        )
        low = torch.where(low.isfinite(), low, start - SEARCHED)
        high = torch.where(high.isfinite(), high, start + SEARCHED)
        return torch.minimum(low, start), torch.maximum(high, start)

    def _initial(self) -> Hparams:
        return self._space.initial(dtype=torch.float64)

    def _join(self, values: Tensors) -> Tensor:
        return torch.cat([values[name].reshape(-1) for name in self._shapes])

    def _split(self, x: Tensor) -> Tensors:
        sizes = [torch.Size(shape).numel() for shape in self._shapes.values()]
        parts = (x * self._units).split(sizes)
        return {
            name: part.reshape(shape)
            for (name, shape), part in zip(self._shapes.items(), parts, strict=True)
        }


def unit_of(domain: object) -> float:
    """How much of a domain's own coordinate is a unit of x."""
    if isinstance(domain, Real) and math.isfinite(domain.high - domain.low):
        return (domain.high - domain.low) / UNITS_OF_RANGE
    return 1.0


def _searched(domain: Continuous) -> tuple[float, float]:
    """Both ends of a domain's own coordinate, as a search by values looks at them."""
    ends = torch.tensor([domain.low, domain.high], dtype=torch.float64)
    low, high = domain.unconstrained(ends).tolist()
    if isinstance(domain, Unit):
        least, most = domain.unconstrained(torch.tensor(SEARCHED_UNIT)).tolist()
        return (least if domain.low == 0 else low), (most if domain.high == 1 else high)
    return low, high
