"""The linear solvers against dense solves."""

import pytest
import torch

from raymeta.hypergrad import ConjugateGradient, FixedPoint, Neumann

pytestmark = pytest.mark.usefixtures("float64")
LOW, HIGH = 0.5, 10.0


def system(scale: float = 1.0, n: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """A symmetric A with eigenvalues from LOW to HIGH times `scale`; and b."""
    generator = torch.Generator().manual_seed(2)
    basis = torch.linalg.qr(torch.randn(n, n, generator=generator))[0]
    matrix = basis @ torch.diag(scale * torch.linspace(LOW, HIGH, n)) @ basis.T
    return 0.5 * (matrix + matrix.T), torch.randn(n, generator=generator)


def solvers(scale: float, iterations: int = 500, **knobs):
    return [
        ConjugateGradient(iterations, **knobs),
        Neumann(iterations, lr=1.8 / (HIGH * scale), **knobs),
        FixedPoint(iterations, **knobs),
    ]


@pytest.mark.parametrize("which", range(3), ids=["cg", "neumann", "fixed-point"])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_matches_the_dense_solve_at_every_scale(which, scale):
    matrix, b = system(scale)
    solution = solvers(scale)[which].solve(lambda v: matrix @ v, b)
    truth = torch.linalg.solve(matrix, b)
    assert float((solution.x - truth).norm() / truth.norm()) < 1e-8
    residual = float((b - matrix @ solution.x).norm() / b.norm())
    assert solution.residual == pytest.approx(residual, rel=1e-6)
    assert residual < 1e-10


@pytest.mark.parametrize("which", range(3), ids=["cg", "neumann", "fixed-point"])
@pytest.mark.parametrize("scale", [1e-6, 2.0, 1e6])
def test_one_iteration_solves_a_multiple_of_the_identity(which, scale):
    b = torch.tensor([1.0, -2.0, 3.0])
    solver = [ConjugateGradient(1), Neumann(1, lr=1 / scale), FixedPoint(1)][which]
    solution = solver.solve(lambda v: scale * v, b)
    torch.testing.assert_close(solution.x, b / scale, rtol=1e-14, atol=0)
    assert solution.products == 2


def test_conjugate_gradient_takes_one_iteration_per_dimension():
    matrix, b = system(n=7)
    assert ConjugateGradient(7).solve(lambda v: matrix @ v, b).products <= 8


def test_neumann_is_the_truncated_series():
    matrix, b = system()
    solution = Neumann(3, lr=0.05, tolerance=1.0).solve(lambda v: matrix @ v, b)
    step = torch.eye(12) - 0.05 * matrix
    series = 0.05 * (b + step @ b + step @ step @ b)
    torch.testing.assert_close(solution.x, series, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("which", [0, 2], ids=["cg", "fixed-point"])
def test_stops_at_its_tolerance(which):
    matrix, b = system()
    loose, tight = (
        solvers(1.0, tolerance=tolerance)[which].solve(lambda v: matrix @ v, b)
        for tolerance in (1e-2, 1e-9)
    )
    assert 1e-9 < loose.residual <= 1.01e-2
    assert tight.residual <= 1.01e-9
    assert loose.products < tight.products


@pytest.mark.parametrize("which", range(3), ids=["cg", "neumann", "fixed-point"])
def test_the_default_tolerance_suits_single_precision(which):
    matrix, b = (x.float() for x in system())
    solution = solvers(1.0)[which].solve(lambda v: matrix @ v, b)
    truth = torch.linalg.solve(matrix, b)
    assert float((solution.x - truth).norm() / truth.norm()) < 1e-4
    assert solution.residual < 1e-4


@pytest.mark.parametrize("which", range(3), ids=["cg", "neumann", "fixed-point"])
def test_zero_gives_zero_and_nan_gives_nan(which):
    solver = solvers(1.0)[which]
    nothing = solver.solve(lambda v: 2 * v, torch.zeros(3))
    assert (nothing.x.tolist(), nothing.residual) == ([0.0] * 3, 0.0)
    diverged = solver.solve(lambda v: 2 * v, torch.tensor([1.0, float("nan")]))
    assert diverged.x.isnan().any()
    assert diverged.residual != diverged.residual


@pytest.mark.parametrize("which", range(3), ids=["cg", "neumann", "fixed-point"])
def test_non_convergence_is_an_error_with_residual_iterations_and_remedy(which):
    matrix, b = system()
    message = r"left a residual of 0\.\d+ after 2 iterations, above .* raise iterations"
    with pytest.raises(ValueError, match=message):
        solvers(1.0, iterations=2)[which].solve(lambda v: matrix @ v, b)


def test_neumann_says_that_it_diverges():
    matrix, b = system()
    message = r"Neumann diverges: residual .* after \d+ iteration.* lower lr"
    with pytest.raises(ValueError, match=message):
        Neumann(500, lr=2.1 / HIGH).solve(lambda v: matrix @ v, b)


@pytest.mark.parametrize("solver", [ConjugateGradient(), FixedPoint(100)])
def test_a_hessian_that_is_not_positive_definite_is_an_error(solver):
    matrix = torch.diag(torch.tensor([1.0, -0.5]))
    message = r"positive definite .* curvature of -.* after .*residual .*: train"
    with pytest.raises(ValueError, match=message):
        solver.solve(lambda v: matrix @ v, torch.tensor([1.0, 3.0]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ConjugateGradient(0), "iterations >= 1, but got iterations=0"),
        (lambda: FixedPoint(-1), "iterations >= 1, but got iterations=-1"),
        (lambda: Neumann(5, lr=0.0), "lr > 0, but got lr=0.0"),
        (lambda: Neumann(5, lr=0.1, tolerance=0.0), "tolerance > 0, but got"),
    ],
)
def test_impossible_knobs_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_conjugate_gradient_may_put_up_with_a_residual():
    matrix, b = system()
    knobs = {"iterations": 3, "accept": 1.0}
    solution = ConjugateGradient(**knobs).solve(lambda v: matrix @ v, b)
    residual = float((b - matrix @ solution.x).norm() / b.norm())
    assert solution.residual == pytest.approx(residual)
    assert 1e-3 < residual < 1.0
    with pytest.raises(ValueError, match="above the tolerance of 1e-05"):
        ConjugateGradient(3, accept=1e-5).solve(lambda v: matrix @ v, b)


def test_conjugate_gradient_may_stop_at_negative_curvature():
    """One step along b, then the curvature along the second direction is below 0."""
    matrix, b = torch.diag(torch.tensor([1.0, -1.0])), torch.tensor([1.0, 0.5])
    with pytest.raises(ValueError, match="positive definite"):
        ConjugateGradient(5).solve(lambda v: matrix @ v, b)
    solution = ConjugateGradient(5, accept=torch.inf).solve(lambda v: matrix @ v, b)
    truth = (b @ b) / (b @ matrix @ b) * b
    torch.testing.assert_close(solution.x, truth)
    residual = float((b - matrix @ truth).norm() / b.norm())
    assert solution.residual == pytest.approx(residual)
