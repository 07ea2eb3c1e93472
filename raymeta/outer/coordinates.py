"""The search space as one flat vector of unconstrained coordinates."""

import math

import torch
from torch import Tensor

from raymeta.outer.batched_problem import stack, unstack
from raymeta.space import Point, Real, Space
from raymeta.types import Hparams, Tensors

#: How many units of x lie between the bounds of a `Real`.
UNITS_OF_RANGE = 8
#: Elements of smaller tensors are walked in as if each were a hyperparameter.
MANY = 8


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
