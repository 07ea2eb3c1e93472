"""The coordinates of a space: λ ↔ x, gradients, bounds."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from raymeta.outer import Coordinates
from raymeta.problem import no_data
from raymeta.space import Choice, Positive, Real, Space, Unit
from raymeta.tasks import Quadratic
from raymeta.testing.truth import central_differences
from raymeta.types import Hparams

pytestmark = pytest.mark.usefixtures("float64")

#: A step on a device that every machine has, though nothing can be computed there.
ELSEWHERE = torch.zeros((), dtype=torch.int64, device="meta")


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def space() -> Space:
    return Space(
        lr=Positive([0.1, 2.0], low=1e-3, high=10.0, shape=(2,)),
        width=Choice([32, 64], initial=64),
        momentum=Unit(0.9, low=0.0, high=0.99),
        weight=Real(0.5, low=-1.0, high=3.0, shape=(2, 2)),
    )


def value_at(natural: Hparams) -> Tensor:
    """Every element has its own part in it, none of them linear."""
    lr, mu, w = natural["lr"], natural["momentum"], natural["weight"]
    scales = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    return (lr[0].square() + 3 * lr[1].sin()) * (1 + mu**3) + (w * scales).sin().sum()


def test_start_is_the_spaces_own_in_double_precision():
    torch.set_default_dtype(torch.float32)
    x = Coordinates(space()).start()
    # A unit of the weights is an eighth of the way from -1 to 3.
    truth = [math.log(0.1), math.log(2.0), math.log(9.0), 1.0, 1.0, 1.0, 1.0]
    assert x.dtype == torch.float64
    assert x.tolist() == pytest.approx(truth, rel=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_hparams_have_names_shapes_and_the_default_dtype(dtype):
    torch.set_default_dtype(dtype)
    coordinates = Coordinates(space())
    hparams = coordinates.hparams(coordinates.start())
    space().check(hparams)
    assert hparams["width"] == 64
    assert {hparams[k].dtype for k in ("lr", "momentum", "weight")} == {dtype}
    flat = coordinates.point(coordinates.start())
    assert list(flat) == list(space().flat_domains())
    back = space().hparams(flat)
    assert all(torch.equal(back[k], hparams[k]) for k in ("lr", "momentum", "weight"))


def test_the_gradient_is_the_one_in_coordinates():
    coordinates = Coordinates(space())
    x = coordinates.start() + torch.linspace(-0.4, 0.5, 7)
    leaves = {
        k: v.requires_grad_()
        for k, v in coordinates.hparams(x).items()
        if isinstance(v, Tensor)
    }
    grads = dict(
        zip(
            leaves,
            torch.autograd.grad(value_at(leaves), list(leaves.values())),
            strict=True,
        )
    )
    truth = central_differences(
        lambda at: float(value_at(coordinates.hparams(at["x"]))), {"x": x}, 1e-4
    )
    gradient = coordinates.gradient(x, grads)
    torch.testing.assert_close(gradient, truth["x"], rtol=1e-8, atol=1e-10)
    assert not gradient.requires_grad
    assert not x.requires_grad


def test_the_gradient_does_not_depend_on_the_order_or_dtype_of_its_entries():
    coordinates = Coordinates(space())
    x = coordinates.start()
    grads = {"lr": vector(1, 2), "momentum": vector(3)[0], "weight": torch.ones(2, 2)}
    gradient = coordinates.gradient(x, grads)
    again = {name: grads[name].float() for name in reversed(grads)}
    assert torch.equal(coordinates.gradient(x, again), gradient)
    natural = [0.1, 2 * 2.0, 3 * 0.9 * 0.1, 0.5, 0.5, 0.5, 0.5]
    assert gradient.tolist() == pytest.approx(natural, rel=1e-14)


def test_non_finite_entries_become_zero_one_by_one():
    coordinates = Coordinates(space())
    nan, inf = math.nan, math.inf
    grads = {
        "lr": vector(nan, 1.0),
        "momentum": torch.tensor(-inf),
        "weight": torch.tensor([[inf, 2.0], [3.0, nan]]),
    }
    gradient = coordinates.gradient(coordinates.start(), grads)
    assert gradient.tolist() == pytest.approx([0.0, 2.0, 0.0, 0.0, 1.0, 1.5, 0.0])


def test_projection_is_the_spaces_own():
    coordinates = Coordinates(space())
    far = torch.full((7,), 1e6)
    for x, bounds in (
        (far, [10.0, 10.0, 0.99, 3.0, 3.0, 3.0, 3.0]),
        (-far, [1e-3, 1e-3, 0.0, -1.0, -1.0, -1.0, -1.0]),
    ):
        projected = coordinates.project(x)
        assert bool(torch.isfinite(projected).all())
        flat = coordinates.point(projected)
        del flat["width"]
        assert list(flat.values()) == pytest.approx(bounds, rel=1e-12, abs=1e-6)
    start = coordinates.start()
    assert torch.equal(coordinates.project(start), start)


def test_the_units_of_a_bounded_real_make_no_difference():
    """Metres or kilometres: the same x, the same gradient in it."""
    metres = Coordinates(Space(w=Real(500.0, low=0.0, high=4000.0, shape=(3,))))
    kilometres = Coordinates(Space(w=Real(0.5, low=0.0, high=4.0, shape=(3,))))
    x = metres.start()
    assert x.tolist() == kilometres.start().tolist() == [1.0, 1.0, 1.0]
    slope = vector(1.0, -2.0, 3.0)
    assert torch.allclose(
        metres.gradient(x, {"w": slope}), kilometres.gradient(x, {"w": 1000 * slope})
    )
    assert metres.project(x - 2).tolist() == kilometres.project(x - 2).tolist()
    free = Coordinates(Space(w=Real(500.0, low=0.0)))
    assert free.start().tolist() == [500.0]


def test_rows_are_runs_by_themselves_to_the_last_bit():
    one = Coordinates(space())
    x = one.start() + 3 * torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    hparams, nearest = one.hparams(x), one.project(x)
    grads = {k: v.cos() for k, v in hparams.items() if isinstance(v, Tensor)}
    gradient = one.gradient(x, grads)
    for i, row in enumerate(x):
        alone, own = one.hparams(row), {k: v[i] for k, v in grads.items()}
        assert hparams["width"] == alone["width"]
        assert all(torch.equal(hparams[k][i], alone[k]) for k in own)
        assert torch.equal(gradient[i], one.gradient(row, own))
        assert torch.equal(nearest[i], one.project(row))


def test_large_tensors_are_known_as_such():
    small, large = Positive(1.0, shape=(7,)), Real(0.0, shape=(2, 4))
    coordinates = Coordinates(Space(a=small, b=Unit(0.5), c=large, d=large))
    assert coordinates.tensors == [slice(8, 16), slice(16, 24)]


def test_hparams_live_where_the_problem_does():
    problem = Quadratic().sample(0)
    assert problem.device == torch.device("cpu")
    there = replace(problem, batch=lambda t: no_data(t)._replace(index=ELSEWHERE))
    assert there.device == ELSEWHERE.device
    coordinates = Coordinates(space(), ELSEWHERE.device)
    hparams = coordinates.hparams(coordinates.start())
    assert {hparams[k].device.type for k in ("lr", "momentum", "weight")} == {"meta"}
    assert hparams["width"] == 64


def test_an_all_discrete_space_has_no_coordinates():
    with pytest.raises(ValueError, match=r"has only \['depth', 'width'\]: add Po"):
        Coordinates(Space(width=Choice([1, 2]), depth=Choice([1, 2])))


def test_starts_on_the_bounds_are_moved_inside():
    space = Space(lr=Positive(0.1, low=0.01, high=1.9))
    coordinates = Coordinates(space)
    for value, inside in (0.01, 0.01), (1.9, 1.9), (5.0, 1.9):
        x = coordinates.at({"lr": torch.tensor(value, dtype=torch.float64)})
        assert float(coordinates.hparams(x)["lr"]) == pytest.approx(inside)
