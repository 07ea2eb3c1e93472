"""Solvers of A x = b, for symmetric positive definite A given by its products."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from raymeta.errors import require_types

#: v -> A v, both of shape (n,).
Operator = Callable[[Tensor], Tensor]


class Solution(NamedTuple):
    """What a solver found.

    Attributes:
        x: shape (n,).
        residual: |b - A x| / |b|, computed from x itself.
        products: how many products with A it took.
    """

    x: Tensor
    residual: float
    products: int


@runtime_checkable
class Solver(Protocol):
    """A way of solving A x = b: a frozen dataclass with its own knobs only."""

    @property
    def iterations(self) -> int:
        """The most iterations; each takes one product, and the residual one more."""
        ...

    def solve(self, operator: Operator, b: Tensor) -> Solution:
        """The x with |b - A x| <= tolerance |b|, or ValueError."""
        ...


@dataclass(frozen=True)
class ConjugateGradient:
    r"""Conjugate gradients.

    $$ \alpha = \frac{r^\top r}{p^\top A p},\quad x \leftarrow x + \alpha p,\quad
       r' = r - \alpha A p,\quad
       p \leftarrow r' + \frac{r'^\top r'}{r^\top r} p $$

    Attributes:
        iterations: the most that are taken.
        tolerance: residual to reach; ε^(2/3) of b's type if None, that is 4e-11 in
            float64 and 2e-5 in float32.
        accept: the residual to put up with where the last iteration leaves more than
            the tolerance, or where negative curvature ends them (Steihaug 1983);
            infinity for any. None: the tolerance, and negative curvature is an error.

    Source: Hestenes & Stiefel 1952; for hypergradients Pedregosa 2016.
    """

    iterations: int = 100
    tolerance: float | None = None
    accept: float | None = None

    def __post_init__(self) -> None:
        _check(self)

    def solve(self, operator: Operator, b: Tensor) -> Solution:
        """At most `iterations` + 1 products.

        Raises:
            ValueError: A is not positive definite; the tolerance is not reached.
        """
        x, r, p, k = 0 * b, b, b, 0
        goal = _goal(self.tolerance, b)
        while k < self.iterations and r.norm() > goal:
            a_p = operator(p)
            k += 1
            if self.accept is not None and not p @ a_p > 0:
                break
            rr = r @ r
            alpha = rr / _curvature(self, p, a_p, k, r.norm() / b.norm())
            x = x + alpha * p
            r = r - alpha * a_p
            p = r + (r @ r) / rr * p
        if self.accept is not None:
            goal = max(goal, self.accept * float(b.norm()))
        return _verified(self, operator, b, x, k, goal)


@dataclass(frozen=True)
class Neumann:
    r"""The Neumann series, cut after `iterations` terms.

    $$ x = \alpha \sum_{j=0}^{K-1} (I - \alpha A)^j b \to A^{-1} b $$

    Attributes:
        iterations: K, the number of terms.
        lr: α; below 2 / the largest eigenvalue of A.
        tolerance: residual to reach; see `ConjugateGradient`. A short series is an
            approximation: accept it with the residual that you can bear, 1 at most.

    Source: Lorraine et al. 2020, Algorithm 3.
    """

    iterations: int
    lr: float
    tolerance: float | None = None

    def __post_init__(self) -> None:
        _check(self)
        if not self.lr > 0:
            raise ValueError(f"Neumann needs lr > 0, but got lr={self.lr}")

    def solve(self, operator: Operator, b: Tensor) -> Solution:
        """`iterations` + 1 products.

        Raises:
            ValueError: the series diverges; the tolerance is not reached.
        """
        x, v = 0 * b, b
        for k in range(1, self.iterations + 1):
            x = x + self.lr * v
            v = v - self.lr * operator(v)  # (I - αA)^k b, and that is b - A x
            # |v| is convex in k: once beyond |b| it grows for ever.
            if v.norm() > 1.000001 * b.norm():
                raise ValueError(
                    f"Neumann diverges: residual {v.norm() / b.norm():.3g} after "
                    f"{_count(k)} with lr={self.lr}: lower lr below 2 / the largest "
                    "eigenvalue of the Hessian, or train to a minimum"
                )
        goal = _goal(self.tolerance, b)
        return _verified(self, operator, b, x, self.iterations, goal)


@dataclass(frozen=True)
class FixedPoint:
    r"""Fixed-point iteration of x = x + ω (b - A x), with the best ω at every step.

    $$ r = b - A x,\quad \omega = \frac{r^\top r}{r^\top A r},\quad
       x \leftarrow x + \omega r $$

    It needs no learning rate and does not mind the scale of A; slower than
    `ConjugateGradient` by the square root of A's condition number.

    Attributes:
        iterations: the most that are taken.
        tolerance: residual to reach; see `ConjugateGradient`.

    Source: Grazzi et al. 2020 (AID with a fixed-point method); Cauchy 1847 for ω.
    """

    iterations: int
    tolerance: float | None = None

    def __post_init__(self) -> None:
        _check(self)

    def solve(self, operator: Operator, b: Tensor) -> Solution:
        """At most `iterations` + 1 products.

        Raises:
            ValueError: A is not positive definite; the tolerance is not reached.
        """
        x, r, k = 0 * b, b, 0
        goal = _goal(self.tolerance, b)
        while k < self.iterations and r.norm() > goal:
            a_r = operator(r)
            k += 1
            omega = (r @ r) / _curvature(self, r, a_r, k, r.norm() / b.norm())
            x = x + omega * r
            r = r - omega * a_r
        return _verified(self, operator, b, x, k, goal)


def _check(solver: "ConjugateGradient | Neumann | FixedPoint") -> None:
    require_types(solver)
    name = type(solver).__name__
    if solver.iterations < 1:
        raise ValueError(
            f"{name} needs iterations >= 1, but got iterations={solver.iterations}"
        )
    if solver.tolerance is not None and not solver.tolerance > 0:
        raise ValueError(
            f"{name} needs tolerance > 0, but got tolerance={solver.tolerance}: leave "
            "it out for the one that suits the precision"
        )


def _goal(tolerance: float | None, b: Tensor) -> float:
    """The norm that the residual must not exceed."""
    relative = torch.finfo(b.dtype).eps ** (2 / 3) if tolerance is None else tolerance
    return relative * float(b.norm())


def _curvature(
    solver: Solver, p: Tensor, a_p: Tensor, iteration: int, residual: Tensor
) -> Tensor:
    """pᵀ A p.

    Raises:
        ValueError: it is not positive.
    """
    curvature = p @ a_p
    if not curvature > 0:
        raise ValueError(
            f"{type(solver).__name__} needs a positive definite Hessian, but found a "
            f"curvature of {curvature / (p @ p):.3g} after {_count(iteration)}, at the "
            f"residual {residual:.3g}: train to a minimum, or add weight decay to the "
            "inner loss"
        )
    return curvature


def _verified(
    solver: Solver,
    operator: Operator,
    b: Tensor,
    x: Tensor,
    iterations: int,
    goal: float,
) -> Solution:
    """The solution with its true residual: a recurrence's own one drifts.

    Raises:
        ValueError: the residual exceeds the goal.
    """
    norm = b.norm()
    if not 0 < norm < torch.inf:
        # Nothing to solve, or what a diverged run left: x is 0, or NaN like b.
        return Solution(x, float(0 * norm), iterations)
    residual = (b - operator(x)).norm()
    # Rounding may bring what the recurrence has just met a little above.
    if not residual <= 1.01 * goal:
        raise ValueError(
            f"{type(solver).__name__} left a residual of {residual / norm:.3g} after "
            f"{_count(iterations)}, above the tolerance of {goal / norm:.3g}: raise "
            "iterations, or accept the residual with a larger tolerance"
        )
    return Solution(x, float(residual / norm), iterations + 1)


def _count(iterations: int) -> str:
    return f"{iterations} iteration{'s' if iterations != 1 else ''}"
