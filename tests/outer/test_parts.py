"""What descents are made of: coordinates, hyper-optimizers, the meter."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from raymeta._tree import detach
from raymeta.optim import sgd
from raymeta.outer import ClippedAdam, Coordinates, LineSearch, Rprop
from raymeta.outer.budget import BudgetMeter, evaluation_cost, plain_cost
from raymeta.outer.coordinates import device_of, place
from raymeta.outer.report import plain_run
from raymeta.problem import descent, no_data
from raymeta.space import Choice, Positive, Real, Space, Unit
from raymeta.tasks import Quadratic
from raymeta.types import Hparams
from tests.support.truth import central_differences

pytestmark = pytest.mark.usefixtures("float64")


#: A step on a device that every machine has, though nothing can be computed there.
ELSEWHERE = torch.zeros((), dtype=torch.int64, device="meta")


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# ------------------------------------------------------------------------ clipped Adam


@pytest.mark.parametrize("lr", [0.2, 1e-3])
def test_adam_equals_torchs_where_nothing_is_clipped(lr):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, generator=generator)
    theirs = torch.nn.Parameter(x.clone())
    reference = torch.optim.Adam([theirs], lr=lr, betas=(0.9, 0.99), eps=0.0)
    adam = ClippedAdam(lr)
    for _ in range(50):
        gradient = torch.randn(4, generator=generator).clamp(-3, 3) + 0.1
        x = adam.step(x, gradient)
        theirs.grad = gradient.clone()
        reference.step()
        torch.testing.assert_close(x, theirs.detach(), rtol=1e-12, atol=1e-14)


def test_adam_clips_to_ten_times_the_running_scale():
    """By hand: v̂ = 4 after g = 2, so that 1e9 counts as 20, and -1e9 as -20."""
    for huge, clipped in ((1e9, 20.0), (-1e9, -20.0), (19.0, 19.0)):
        adam = ClippedAdam(1.0)
        x = adam.step(vector(0.0), vector(2.0))
        assert x.tolist() == pytest.approx([-1.0], rel=1e-14)
        x = adam.step(x, vector(huge))
        m = 0.9 * (0.1 * 2.0) + 0.1 * clipped
        v = 0.99 * (0.01 * 4.0) + 0.01 * clipped**2
        moved = (m / (1 - 0.9**2)) / math.sqrt(v / (1 - 0.99**2))
        assert x.tolist() == pytest.approx([-1.0 - moved], rel=1e-13)


def test_adam_recovers_from_a_burst_of_divergence():
    adam = ClippedAdam(0.1)
    x = vector(0.0)
    for i in range(100):
        x = adam.step(x, vector(1e200 if i in (40, 41, 42) else 1.0))
    before = float(x)
    for _ in range(80):
        x = adam.step(x, vector(-1.0))
    assert float(x) > before + 1.0


def test_adam_does_not_move_without_a_gradient():
    adam = ClippedAdam(0.5)
    x = adam.step(vector(1.0, 1.0), vector(0.0, 3.0))
    assert x.tolist() == pytest.approx([1.0, 0.5])
    x = adam.step(x, vector(0.0, 3.0))
    assert float(x[0]) == 1.0
    # Its first gradient is not clipped to a scale of zero.
    x = adam.step(x, vector(1e-3, 3.0))
    m_hat = 0.1 * 1e-3 / (1 - 0.9**3)
    v_hat = 0.01 * 1e-6 / (1 - 0.99**3)
    assert float(x[0]) == pytest.approx(1.0 - 0.5 * m_hat / math.sqrt(v_hat), rel=1e-12)


def test_adams_rate_may_change_between_steps():
    slow, fast = ClippedAdam(0.1), ClippedAdam(0.1)
    x = slow.step(vector(0.0), vector(1.0))
    assert torch.equal(fast.step(vector(0.0), vector(1.0)), x)
    fast.lr = 0.3
    moved = [float(a.step(x, vector(0.4)) - x) for a in (slow, fast)]
    assert moved[1] == pytest.approx(3 * moved[0], rel=1e-12)


def test_adams_agreement_is_the_cosine_of_a_gradient_with_those_before():
    """By hand, for two coordinates after g = (1, 2) and then g' = (3, -1)."""
    adam = ClippedAdam(0.1)
    x = adam.step(vector(0.0, 0.0), vector(1.0, 2.0))
    assert adam.agreement == 0.0
    adam.step(x, vector(3.0, -1.0))
    before, after = (0.1 * 1.0, 0.1 * 2.0), (3.0, -1.0)
    v = [0.99 * 0.01 * a**2 + 0.01 * b**2 for a, b in ((1.0, 3.0), (2.0, -1.0))]
    dot = sum(a * b / c for a, b, c in zip(before, after, v, strict=True))
    norms = [
        math.sqrt(sum(a**2 / c for a, c in zip(u, v, strict=True)))
        for u in (before, after)
    ]
    assert adam.agreement == pytest.approx(dot / math.prod(norms), rel=1e-12)


# ------------------------------------------------------------------------------- Rprop


def rprop(length: float = 1.0, *gradient: float, tensors: tuple = ()) -> Rprop:
    search = Rprop(length, tensors)
    search.turn(vector(*gradient))
    return search


def test_rprop_steps_against_the_signs():
    assert rprop(0.3, 1e-9, -1e9, 0.0).step().tolist() == [-0.3, 0.3, 0.0]


def test_rprop_by_hand():
    search = rprop(1.0, 1.0, -1.0, 1.0)
    search.turn(vector(2.0, 3.0, 0.0))
    # The first sign held, the second flipped, the third is none.
    assert search.step().tolist() == [-1.5, -0.5, 0.0]
    search.retreat(vector(-1.0, 5.0, 1.0))
    assert search.step().tolist() == pytest.approx([-1.5 * 0.35, -0.5, 0.0])
    search.retreat(vector(1.0, 1.0, 1.0))
    search.scale(0.5)
    assert search.step().tolist() == pytest.approx([-0.75 * 0.35, -0.25, 0.0])


def test_rprops_growth_ends_at_the_longest_or_the_first_length():
    for first, longest in ((1.0, 1.5), (4.0, 4.0), (0.2, 1.5)):
        search = rprop(first, 1.0)
        for _ in range(7):
            search.turn(vector(1.0))
        assert float(search.step()) == -longest


def test_rprop_moves_the_elements_of_a_tensor_together_and_alone():
    """D = (I, 1_S) with S the last three of four coordinates."""
    part = slice(1, 4)
    search = rprop(1.0, 1.0, -5.0, 1.0, 1.0, tensors=(part,))
    # Together they fall (the sum is -3): a shift of +1/2; each alone 1/2 by its sign.
    assert search.step().tolist() == [-1.0, 1.0, 0.0, 0.0]
    search.turn(vector(1.0, -1.0, -1.0, 1.0))
    # Held: first, shift, second, fourth (x 1.5); flipped: third (x 0.5).
    shift = 0.5 * 1.5
    assert search.step().tolist() == [-1.5, shift + 0.75, shift + 0.25, shift - 0.75]


@pytest.mark.parametrize("tensors", [(), (slice(0, 4),)])
def test_rprop_does_not_see_the_scale_of_the_gradient(tensors):
    generator = torch.Generator().manual_seed(0)
    one, other = Rprop(0.4, tensors), Rprop(0.4, tensors)
    for scale in (1e-30, 1.0, 1e30):
        gradient = torch.randn(6, generator=generator)
        for search, factor in ((one, 1.0), (other, scale)):
            search.turn(factor * gradient)
            search.retreat(-factor * gradient.roll(1))
        assert torch.equal(one.step(), other.step())


# ------------------------------------------------------------------------- line search


def trials(search: LineSearch, phi) -> list[float]:
    found = []
    while search.length is not None:
        found.append(search.length)
        search.observe(phi(search.length))
    return found


def test_a_line_search_doubles_while_values_fall():
    search = LineSearch(0.0, -1.0)
    assert trials(search, lambda t: (t - 5) ** 2 - 25) == [1.0, 2.0, 4.0, 8.0]
    assert search.best == 4.0
    assert search.value == -24.0


@pytest.mark.parametrize("minimum", [0.2, 0.35, 0.49])
def test_a_line_search_finds_the_minimum_of_a_parabola_at_once(minimum):
    search = LineSearch(3.0, -2 * minimum)
    assert trials(search, lambda t: (t - minimum) ** 2 + 3 - minimum**2) == [
        1.0,
        pytest.approx(minimum, rel=1e-12),
    ]
    assert search.best == pytest.approx(minimum, rel=1e-12)


def test_a_line_search_shortens_within_bounds():
    """Steep walls: at least to 0.15 t; nearly better: at most to 0.6 t; ∞: t / 4."""
    for value, first in ((1e9, 0.15), (1e-9, 0.5), (math.inf, 0.25), (math.nan, 0.25)):
        search = LineSearch(0.0, -1.0)
        search.observe(value)
        assert search.length == pytest.approx(first, rel=1e-6)
    flat = LineSearch(0.0, -1.0)
    flat.observe(-0.0)  # equal is not better
    assert flat.length == pytest.approx(0.5)
    level = LineSearch(0.0, 0.0)
    level.observe(0.0)
    assert level.length == 0.25


def test_a_line_search_gives_up_below_the_shortest():
    search = LineSearch(0.0, -1.0, shortest=0.05)
    assert trials(search, lambda t: math.inf) == [1.0, 0.25, 0.0625]
    assert search.best == 0.0


def test_a_line_search_tries_the_same_for_multiples_of_e_plus_a_constant():
    """Exactly for powers of two and values that are sums of few of them."""

    def phi(t: float) -> float:
        return t**2 - t / 8

    plain = trials(LineSearch(0.0, -1 / 8), phi)
    for a, b in ((2.0**40, 0.0), (2.0**-30, 0.0), (1.0, 0.5), (4.0, -2.0)):
        search = LineSearch(b, -a / 8)
        along = partial(lambda a, b, t: a * phi(t) + b, a, b)
        assert trials(search, along) == pytest.approx(plain, rel=1e-12)


# ------------------------------------------------------------------------- coordinates


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
    flat = coordinates.flat(coordinates.start())
    assert list(flat) == list(space().flat_domains())
    back = space().unflatten(flat)
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
        flat = coordinates.flat(projected)
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


def test_large_tensors_are_known_as_such():
    small, large = Positive(1.0, shape=(7,)), Real(0.0, shape=(2, 4))
    coordinates = Coordinates(Space(a=small, b=Unit(0.5), c=large, d=large))
    assert coordinates.tensors == [slice(8, 16), slice(16, 24)]


def test_hparams_live_where_the_problem_does():
    problem = Quadratic().sample(0)
    assert device_of(problem) == torch.device("cpu")
    there = replace(problem, batch=lambda t: no_data(t)._replace(index=ELSEWHERE))
    assert device_of(there) == ELSEWHERE.device
    coordinates = Coordinates(space(), ELSEWHERE.device)
    hparams = coordinates.hparams(coordinates.start())
    assert {hparams[k].device.type for k in ("lr", "momentum", "weight")} == {"meta"}
    assert hparams["width"] == 64
    assert place({"a": torch.ones(2), "b": 3}, ELSEWHERE.device)["b"] == 3


def test_an_all_discrete_space_has_no_coordinates():
    with pytest.raises(ValueError, match=r"has only \['depth', 'width'\]: add Po"):
        Coordinates(Space(width=Choice([1, 2]), depth=Choice([1, 2])))


# ------------------------------------------------------------------- meter and charges


def test_the_ledger_covers_what_is_left_up_to_rounding():
    meter = BudgetMeter(1.0)
    for _ in range(9):
        assert meter.covers(0.1)
        meter.charge(0.1)
    assert meter.spent + 0.1 != 1.0
    assert meter.covers(0.1)
    meter.charge(0.1)
    assert not meter.covers(1e-6)
    assert meter.covers(0.0)


def test_reports_are_numbered_and_know_what_is_spent():
    meter = BudgetMeter(10.0)
    meter.charge(1.5)
    first = meter.report(3, 0.5, {"x": 1.0})
    meter.charge(2.0)
    second = meter.report(5, 0.4, {"x": 1.0}, ("state", [(5, {"x": 1.0})]))
    assert (first.outer_step, second.outer_step) == (1, 2)
    assert (first.gradient_evals, second.gradient_evals) == (1.5, 3.5)
    assert (first.complete, first.state, first.schedule) == (False, None, None)
    assert (second.complete, second.state) == (True, "state")
    assert second.schedule == [(5, {"x": 1.0})]


def test_an_outer_loss_without_gradient_is_a_third_of_a_pass():
    problem = descent(
        init_params=lambda hparams: {"w": torch.ones(1)},
        inner_loss=lambda params, hparams, batch: params["w"].square().sum(),
        outer_loss=lambda params, hparams: params["w"].square().sum(),
        optimizer=lambda hparams: sgd(0.1),
        outer_cost=6.0,
    )
    assert evaluation_cost(problem) == 2.0
    assert plain_cost(problem, 7) == 9.0


def test_a_plain_run_is_the_closed_form():
    task = Quadratic()
    hparams = {"lr": torch.tensor(0.08), "momentum": torch.tensor(0.4)}
    state, value = plain_run(task.sample(3), hparams, 11)
    truth, _ = task.closed_form(0.08, 0.4, 11, task.start(3))
    assert value == pytest.approx(truth, rel=1e-12)
    assert not state.params["w"].requires_grad


def test_a_plain_run_keeps_no_graph_of_weights_that_require_one():
    net = torch.nn.Linear(2, 1)
    x = torch.ones(3, 2)
    scale = torch.nn.Parameter(torch.ones(()))

    def loss(params, *_) -> Tensor:
        return (scale * torch.func.functional_call(net, params, (x,))).square().mean()

    problem = descent(
        init_params=lambda hparams: dict(net.named_parameters()),
        inner_loss=loss,
        outer_loss=loss,
        optimizer=lambda hparams: sgd(hparams["lr"]),
    )
    hparams = {"lr": torch.tensor(0.1)}
    state, _ = plain_run(problem, hparams, 3)
    assert not any(p.requires_grad for p in state.params.values())
    # Nor does one grow on the way.
    state = problem.step(detach(problem.init(hparams)), hparams, problem.batch(0))
    assert not any(p.requires_grad for p in state.params.values())
