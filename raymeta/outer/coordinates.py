"""The search space as one flat vector of unconstrained coordinates."""

from typing import Any

import torch
from torch import Tensor

from raymeta.space import Space
from raymeta.types import Hparams, Tensors


class Coordinates:
    """λ of a space ↔ x, a float64 vector of its unconstrained coordinates.

    Args:
        space: whose continuous hyperparameters are walked in; choices stay at their
            initial value.

    Raises:
        ValueError: the space has no continuous hyperparameter.
    """

    def __init__(self, space: Space) -> None:
        if not space.continuous:
            raise ValueError(
                "hypergradient descent needs a continuous hyperparameter, but the "
                f"space has only {sorted(space)}: add Positive, Unit or Real"
            )
        self._space = space
        self._shapes = {k: d.shape for k, d in space.continuous.items()}
        self._choices = {k: d.initial for k, d in space.choices.items()}

    def start(self) -> Tensor:
        """X at the space's initial values."""
        return self._join(self._space.unconstrained(self._initial()))

    def hparams(self, x: Tensor) -> Hparams:
        """Natural values at x, in torch's default dtype."""
        natural = self._space.natural(self._split(x))
        dtype = torch.get_default_dtype()
        return {k: v.to(dtype) for k, v in natural.items()} | self._choices

    def flat(self, x: Tensor) -> dict[str, Any]:
        """Natural values at x by flat name."""
        return self._space.flatten(self.hparams(x))

    def gradient(self, x: Tensor, grads: Tensors) -> Tensor:
        """dE/dx from dE/dλ: the chain rule through the natural values.

        Non-finite entries, the mark of a diverged run, become 0: they say nothing.
        """
        x = x.detach().requires_grad_()
        natural = self._space.natural(self._split(x))
        cotangents = [grads[name].to(x.dtype) for name in natural]
        (gradient,) = torch.autograd.grad(list(natural.values()), x, cotangents)
        return torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)

    def project(self, x: Tensor) -> Tensor:
        """The nearest x within the space's bounds."""
        return self._join(self._space.project(self._split(x)))

    def _initial(self) -> Hparams:
        return self._space.initial(dtype=torch.float64)

    def _join(self, values: Tensors) -> Tensor:
        return torch.cat([values[name].reshape(-1) for name in self._shapes])

    def _split(self, x: Tensor) -> Tensors:
        sizes = [torch.Size(shape).numel() for shape in self._shapes.values()]
        parts = x.split(sizes)
        return {
            name: part.reshape(shape)
            for (name, shape), part in zip(self._shapes.items(), parts, strict=True)
        }
