"""The curvature that hypergradients tell of: L-BFGS where E is smooth."""

import math

import pytest
import torch
from torch import Tensor

from raymeta.outer import Curvature

pytestmark = pytest.mark.usefixtures("float64")


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def a_parabola(n: int = 3) -> tuple[Tensor, Tensor]:
    """A symmetric positive definite Hessian, and the gradient at 0."""
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(n, n, generator=generator)
    return root @ root.T + torch.eye(n), torch.randn(n, generator=generator)


def walked(
    hessian: Tensor, gradient: Tensor, steps: Tensor, scale: float = 1.0
) -> tuple[Curvature, Tensor]:
    """What steps along a parabola teach, and the gradient at their end."""
    curvature = Curvature(100.0)
    for step in steps:
        after = gradient + hessian @ step
        rise = float((gradient + after) @ step) / 2
        curvature.learn(step, scale * rise, scale * gradient, scale * after)
        gradient = after
    return curvature, gradient


def bfgs(hessian: Tensor, steps: Tensor, first: Tensor) -> Tensor:
    """The inverse Hessian as a matrix, by the update of Nocedal & Wright, eq. 6.17."""
    inverse, one = torch.diag(first), torch.eye(len(first))
    for s in steps:
        y = hessian @ s
        left = one - s.outer(y) / (y @ s)
        inverse = left @ inverse @ left.T + s.outer(s) / (y @ s)
    return inverse


def test_curvature_steps_as_dense_bfgs_does():
    hessian, gradient = a_parabola()
    steps = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    curvature, end = walked(hessian, gradient, steps)
    otherwise = vector(0.3, -0.2, 0.1)
    first = otherwise.abs() / end.abs().clamp(min=float(end.abs().max()) / 10)
    truth = -bfgs(hessian, steps, first) @ end
    torch.testing.assert_close(curvature.step(end, otherwise), truth)
    along = curvature.step(hessian @ steps[-1], otherwise)
    torch.testing.assert_close(along, -steps[-1])  # the secant equation H y = s


def test_curvature_finds_the_minimum_after_steps_in_every_conjugate_direction():
    hessian, gradient = a_parabola()
    conjugate = torch.linalg.eigh(hessian).eigenvectors.T
    curvature, end = walked(hessian, gradient, conjugate)
    newton = -torch.linalg.solve(hessian, end)
    torch.testing.assert_close(curvature.step(end, vector(1.0, 1.0, 1.0)), newton)


def test_curvature_is_the_other_step_until_it_knows_better():
    curvature, otherwise = Curvature(1.5), vector(3.0, -1.0)
    assert curvature.step(vector(-1.0, 1.0), otherwise) is otherwise
    # Along one axis of a parabola with h = 2: then Newton's step there, s^0 elsewhere.
    curvature.learn(vector(1.0, 0.0), -5.0, vector(-6.0, 0.0), vector(-4.0, 0.0))
    step = curvature.step(vector(-2.0, 1.0), vector(0.7, -0.4))
    assert step.tolist() == pytest.approx([1.0, -0.4])
    nothing = vector(0.0, 0.0)
    assert curvature.step(nothing, otherwise) is otherwise


def test_curvature_moves_no_coordinate_by_more_than_the_longest():
    curvature = Curvature(1.5)
    curvature.learn(vector(1.0, 0.0), -5.0, vector(-6.0, 0.0), vector(-4.0, 0.0))
    step = curvature.step(vector(-12.0, 1.0), vector(0.7, -0.4))
    # Newton's step is 6; a tenth of the largest gradient is 1.2, for H_0 = 0.4 / 1.2.
    assert step.tolist() == pytest.approx([1.5, -0.4 / 1.2 / 4])


@pytest.mark.parametrize(
    ("rise", "before", "after"),
    [
        (0.1, -1.0, 1e13),  # a gradient that explodes
        (0.9, -1.0, -1.0),  # E rose, where gradients say that it fell
        (-2.0, -1.0, -3.0),  # negative curvature
        (math.inf, -1.0, 1.0),
        (0.5, math.nan, 1.0),
    ],
)
def test_curvature_does_not_learn_from_what_is_no_parabola(rise, before, after):
    curvature, otherwise = Curvature(1.5), vector(0.5)
    curvature.learn(vector(1.0), rise, vector(before), vector(after))
    assert curvature.step(vector(1.0), otherwise) is otherwise


@pytest.mark.parametrize("scale", [2.0**-40, 2.0**60])
def test_curvature_does_not_see_the_scale_of_e(scale):
    hessian, gradient = a_parabola()
    steps = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    (one, end), (other, _) = (walked(hessian, gradient, steps, a) for a in (1.0, scale))
    otherwise = vector(0.3, -0.2, 0.1)
    scaled = other.step(scale * end, otherwise)
    assert torch.equal(one.step(end, otherwise), scaled)
