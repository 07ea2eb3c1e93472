"""Test functions of optimization whose fidelity grows with the training steps."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from raymeta.problem import BilevelProblem, no_data
from raymeta.space import Real, Space
from raymeta.types import Batch, Hparams

#: Largest shift of a surface, in widths of the space.
SHIFT = 0.1
#: Of Hartmann's function: rows of A, of P, and α.
A = (
    (10.0, 3.0, 17.0, 3.5, 1.7, 8.0),
    (0.05, 10.0, 17.0, 0.1, 8.0, 14.0),
    (3.0, 3.5, 1.7, 10.0, 17.0, 8.0),
    (17.0, 8.0, 0.05, 10.0, 0.1, 14.0),
)
P = (
    (0.1312, 0.1696, 0.5569, 0.0124, 0.8283, 0.5886),
    (0.2329, 0.4135, 0.8307, 0.3736, 0.1004, 0.9991),
    (0.2348, 0.1451, 0.3522, 0.2883, 0.3047, 0.6650),
    (0.4047, 0.8828, 0.8732, 0.5743, 0.1091, 0.0381),
)
ALPHA = (1.0, 1.2, 3.0, 3.2)


class Counter(NamedTuple):
    """The state: how far training is.

    Attributes:
        steps: t as a float, shape ().
    """

    steps: Tensor


class Formula(NamedTuple):
    """A surface on the unit cube.

    Attributes:
        value: (x of shape (d,), z) -> f, shape ().
        optimum: where f(x, 1) is least.
        least: that value, which f nowhere falls below at any z.
    """

    value: Callable[[Tensor, Tensor], Tensor]
    optimum: tuple[float, ...]
    least: float


@dataclass(frozen=True, kw_only=True)
class Surface:
    r"""Find the minimum of a known function, seen coarsely before the last step.

    $$ E(s_t, \lambda) = f(\lambda - \delta, z) - f^*,\qquad z = t / T $$

    Nothing is trained: a step raises the fidelity z, which changes f's constants (b of
    Branin's function to b - 0.1 (1 - z), α_1 of Hartmann's to α_1 - 0.1 (1 - z)). The
    shift δ follows from the seed, uniform within 0.1 of the unit cube in each
    coordinate. E ≥ 0 always, and after T steps it is 0 at `optimum`.

    Attributes:
        function: "branin" (2 hyperparameters, three equal minima before the shift) or
            "hartmann6" (6; six local minima).
        horizon: T, steps to full fidelity.
        budget: steps of a comparison; 100 full runs by default.

    Source: Wu, Toscano-Palmerin, Frazier & Wilson 2019, section 4.1 (the augmented
    functions); Dixon & Szegö 1978 (the functions).
    """

    function: Literal["branin", "hartmann6"] = "hartmann6"
    horizon: int = 50
    budget: float = 5000.0
    source: ClassVar[str] = "Wu et al. 2019; Dixon & Szegö 1978"
    licence: ClassVar[str] = "none: no data"

    @property
    def name(self) -> str:
        """`surface-` and the function."""
        return f"surface-{self.function}"

    @property
    def space(self) -> Space:
        """Starts at the centre of the unit cube."""
        shape = (len(FORMULAS[self.function].optimum),)
        return Space(x=Real(0.5, low=0.0, high=1.0, shape=shape))

    def shift(self, seed: int) -> Tensor:
        """δ, shape (d,)."""
        generator = torch.Generator().manual_seed(seed)
        count = len(FORMULAS[self.function].optimum)
        u = torch.rand(count, generator=generator, dtype=torch.float64)
        return (SHIFT * (2 * u - 1)).to(torch.get_default_dtype())

    def optimum(self, seed: int) -> Hparams:
        """λ* of `sample(seed)`, where E = 0 after T steps."""
        best = torch.tensor(FORMULAS[self.function].optimum)
        return {"x": best + self.shift(seed)}

    def sample(self, seed: int) -> BilevelProblem:
        """The surface, shifted by the seed."""
        formula, shift = FORMULAS[self.function], self.shift(seed)

        def step(state: Counter, hparams: Hparams, batch: Batch) -> Counter:
            return Counter(state.steps + 1)

        def regret(state: Counter, hparams: Hparams) -> Tensor:
            z = state.steps / self.horizon
            return formula.value(hparams["x"] - shift, z) - formula.least

        return BilevelProblem(
            init=lambda hparams: Counter(torch.tensor(0.0)),
            batch=no_data,
            step=step,
            outer_loss=regret,
            metrics=lambda state, hparams: {"test_loss": regret(state, hparams)},
        )


def branin(x: Tensor, z: Tensor) -> Tensor:
    r"""Branin's function on the unit square.

    $$ \Big(x_2 - \big(\tfrac{5.1}{4\pi^2} - 0.1 (1 - z)\big) x_1^2
       + \tfrac5\pi x_1 - 6\Big)^2 + 10 \Big(1 - \tfrac1{8\pi}\Big) \cos x_1 + 10 $$

    with x_1 from -5 to 10 and x_2 from 0 to 15.
    """
    x1, x2 = 15 * x[0] - 5, 15 * x[1]
    b = 5.1 / (4 * math.pi**2) - 0.1 * (1 - z)
    valley = x2 - b * x1.square() + 5 / math.pi * x1 - 6
    return valley.square() + 10 * (1 - 1 / (8 * math.pi)) * torch.cos(x1) + 10


def hartmann6(x: Tensor, z: Tensor) -> Tensor:
    r"""Hartmann's function of six variables.

    $$ -\sum_i \alpha_i(z) \exp\Big(-\sum_j A_{ij} (x_j - P_{ij})^2\Big),\qquad
       \alpha_1(z) = \alpha_1 - 0.1 (1 - z) $$
    """
    a, p, alpha = (torch.tensor(rows).to(x) for rows in (A, P, ALPHA))
    lowered = alpha - 0.1 * (1 - z) * torch.eye(4)[0].to(x)
    return -(lowered * torch.exp(-(a * (x - p).square()).sum(1))).sum()


FORMULAS = {
    "branin": Formula(branin, ((math.pi + 5) / 15, 2.275 / 15), 5 / (4 * math.pi)),
    "hartmann6": Formula(
        hartmann6,
        (
            0.201689511007,
            0.150010691823,
            0.476873974222,
            0.275332430494,
            0.311651616600,
            0.657300534066,
        ),
        -3.322368011415515,
    ),
}
