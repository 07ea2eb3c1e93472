"""Limited-memory BFGS: dense BFGS where E is smooth, and what is not learnt from."""

import math

import pytest
import torch
from torch import Tensor

from raymeta.outer import LBFGS
from raymeta.outer.steps.lbfgs import LBFGSState

pytestmark = pytest.mark.usefixtures("float64")


#: One that is bound by no longest step, and one that is.
LONG, SHORT = LBFGS(100.0), LBFGS(1.5)


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def a_parabola(n: int = 3) -> tuple[Tensor, Tensor]:
    """A symmetric positive definite Hessian, and the gradient at 0."""
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(n, n, generator=generator)
    return root @ root.T + torch.eye(n), torch.randn(n, generator=generator)


def walked(
    hessian: Tensor, gradient: Tensor, steps: Tensor, scale: float = 1.0
) -> tuple[LBFGSState, Tensor]:
    """What steps along a parabola teach, and the gradient at their end."""
    state = LONG.init()
    for step in steps:
        after = gradient + hessian @ step
        rise = float((gradient + after) @ step) / 2
        state = LONG.update(step, scale * rise, scale * gradient, scale * after, state)
        gradient = after
    return state, gradient


def bfgs(hessian: Tensor, steps: Tensor, first: Tensor) -> Tensor:
    """The inverse Hessian as a matrix, by the update of Nocedal & Wright, eq. 6.17."""
    inverse, one = torch.diag(first), torch.eye(len(first))
    for s in steps:
        y = hessian @ s
        left = one - s.outer(y) / (y @ s)
        inverse = left @ inverse @ left.T + s.outer(s) / (y @ s)
    return inverse


def test_it_steps_as_dense_bfgs_does():
    hessian, gradient = a_parabola()
    steps = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    state, end = walked(hessian, gradient, steps)
    otherwise = vector(0.3, -0.2, 0.1)
    first = otherwise.abs() / end.abs().clamp(min=float(end.abs().max()) / 10)
    truth = -bfgs(hessian, steps, first) @ end
    torch.testing.assert_close(LONG.step(end, otherwise, state), truth)
    along = LONG.step(hessian @ steps[-1], otherwise, state)
    torch.testing.assert_close(along, -steps[-1])  # the secant equation H y = s


def test_it_finds_the_minimum_after_steps_in_every_conjugate_direction():
    hessian, gradient = a_parabola()
    conjugate = torch.linalg.eigh(hessian).eigenvectors.T
    state, end = walked(hessian, gradient, conjugate)
    newton = -torch.linalg.solve(hessian, end)
    found = LONG.step(end, vector(1.0, 1.0, 1.0), state)
    torch.testing.assert_close(found, newton)


def knowing() -> LBFGSState:
    """After a step along one axis of a parabola with h = 2."""
    before, after = vector(-6.0, 0.0), vector(-4.0, 0.0)
    return SHORT.update(vector(1.0, 0.0), -5.0, before, after, SHORT.init())


def test_it_is_the_other_step_until_it_knows_better():
    otherwise = vector(3.0, -1.0)
    assert SHORT.step(vector(-1.0, 1.0), otherwise, SHORT.init()) is otherwise
    # Then Newton's step along that axis, s^0 elsewhere.
    step = SHORT.step(vector(-2.0, 1.0), vector(0.7, -0.4), knowing())
    assert step.tolist() == pytest.approx([1.0, -0.4])
    assert SHORT.step(vector(0.0, 0.0), otherwise, knowing()) is otherwise


def test_it_moves_no_coordinate_by_more_than_the_longest():
    step = SHORT.step(vector(-12.0, 1.0), vector(0.7, -0.4), knowing())
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
def test_it_does_not_learn_from_what_is_no_parabola(rise, before, after):
    empty = SHORT.init()
    assert (
        SHORT.update(vector(1.0), rise, vector(before), vector(after), empty) == empty
    )


def test_it_forgets_all_but_the_latest_pairs():
    hessian, gradient = a_parabola()
    steps = torch.randn(13, 3, generator=torch.Generator().manual_seed(1))
    state, _ = walked(hessian, gradient, steps)
    assert [pair[0].tolist() for pair in state.pairs] == steps[3:].tolist()


@pytest.mark.parametrize("scale", [2.0**-40, 2.0**60])
def test_it_does_not_see_the_scale_of_e(scale):
    hessian, gradient = a_parabola()
    steps = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    (one, end), (other, _) = (walked(hessian, gradient, steps, a) for a in (1.0, scale))
    otherwise = vector(0.3, -0.2, 0.1)
    scaled = LONG.step(scale * end, otherwise, other)
    assert torch.equal(LONG.step(end, otherwise, one), scaled)
