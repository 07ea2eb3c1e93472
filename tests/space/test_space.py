"""The search space: coordinates, bounds, names, and what it refuses."""

import math

import pytest
import torch

from raymeta.space import Choice, Positive, Real, Space, Unit

pytestmark = pytest.mark.usefixtures("float64")

DOMAINS = {
    "positive": (Positive, [1e-30, 1e-3, 1.0, 2.5, 1e20]),
    "unit": (Unit, [1e-6, 0.1, 0.5, 0.9, 1 - 1e-6]),
    "real": (Real, [-1e6, -2.0, 0.0, 0.3, 1e6]),
}
SHAPES = [(), (1,), (3,), (2, 3), (2, 1, 2)]
every_domain = pytest.mark.parametrize("kind", DOMAINS)


def mixed() -> Space:
    return Space(
        lr=Positive(0.1, low=1e-3, high=10.0),
        momentum=Unit([0.2, 0.9], low=0.0, high=0.99, shape=(2,)),
        weight=Real(0.0, low=-1.0, high=3.0, shape=(2, 2)),
        width=Choice([32, 64], initial=64),
    )


# ------------------------------------------------------------------- natural and back


@every_domain
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_natural_values_survive_the_round_trip(kind, shape):
    domain, values = DOMAINS[kind]
    space = Space(x=domain(0.5, shape=shape))
    for value in values:
        natural = {"x": torch.full(shape, value)}
        back = space.natural(space.unconstrained(natural))["x"]
        torch.testing.assert_close(back, natural["x"], rtol=1e-13, atol=0)


@every_domain
def test_coordinates_survive_the_round_trip(kind):
    domain, _ = DOMAINS[kind]
    space = Space(x=domain(0.5, shape=(7,)))
    coordinates = {"x": torch.linspace(-8, 8, 7)}
    back = space.unconstrained(space.natural(coordinates))["x"]
    torch.testing.assert_close(back, coordinates["x"], rtol=1e-11, atol=1e-12)


def test_the_coordinates_are_log_logit_and_the_value_itself():
    space = Space(p=Positive(1.0), u=Unit(0.5), r=Real(0.0))
    natural = {"p": 0.2, "u": 0.3, "r": -1.7}
    at = space.unconstrained({k: torch.tensor(v) for k, v in natural.items()})
    assert float(at["p"]) == pytest.approx(math.log(0.2), rel=1e-15)
    assert float(at["u"]) == pytest.approx(math.log(0.3 / 0.7), rel=1e-15)
    assert float(at["r"]) == -1.7


def test_choices_have_no_coordinate():
    space = mixed()
    assert set(space.unconstrained(space.initial())) == {"lr", "momentum", "weight"}
    assert set(space.continuous) == {"lr", "momentum", "weight"}
    assert set(space.choices) == {"width"}


# ------------------------------------------------------------------------------ bounds


def test_projection_moves_only_what_is_out_of_bounds():
    space = mixed()
    inside = space.unconstrained(space.initial())
    for name, value in space.project(inside).items():
        assert torch.equal(value, inside[name])
    outside = {
        "lr": torch.tensor(99.0),
        "momentum": torch.tensor([-1.0, 99.0]),
        "weight": torch.tensor([[-2.0, 0.5], [4.0, 3.0]]),
    }
    natural = space.natural(space.project(outside))
    assert float(natural["lr"]) == pytest.approx(10.0, rel=1e-14)
    torch.testing.assert_close(
        natural["momentum"], torch.tensor([1 / (1 + math.e), 0.99])
    )
    assert natural["weight"].tolist() == [[-1.0, 0.5], [3.0, 3.0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("end", [-math.inf, -1e300, 1e300, math.inf])
@pytest.mark.parametrize(
    "domain",
    [
        Positive(0.5),
        Positive(0.5, high=2.0),
        Unit(0.5),
        Unit(0.5, low=0.1),
        Unit(0.5, low=0.0, high=0.99),
    ],
    ids=str,
)
def test_projection_ends_where_single_precision_still_sees_the_open_range(
    domain, end, dtype
):
    space = Space(x=domain)
    projected = space.project({"x": torch.tensor(end, dtype=dtype)})
    natural = space.natural(projected)["x"].to(torch.float32)
    assert math.isfinite(float(projected["x"]))
    assert 0 < float(natural) < (1 if isinstance(domain, Unit) else math.inf)
    back = float(space.unconstrained({"x": natural})["x"])
    assert math.isfinite(back)
    assert domain.low * (1 - 1e-6) <= float(natural) <= domain.high * (1 + 1e-6)


def test_projection_reaches_every_bound():
    for domain in (Positive(0.5, low=1e-8, high=1e8), Unit(0.5, low=0.01, high=0.99)):
        space = Space(x=domain)
        for end, bound in ((-math.inf, domain.low), (math.inf, domain.high)):
            x = space.natural(space.project({"x": torch.tensor(end)}))["x"]
            assert float(x) == pytest.approx(bound, rel=1e-13)


def test_real_without_bounds_is_never_projected():
    far = {"x": torch.tensor([-1e300, 1e300])}
    assert torch.equal(Space(x=Real(0.0, shape=(2,))).project(far)["x"], far["x"])


def test_projection_keeps_a_nan_visible():
    space = Space(x=Unit(0.5))
    assert math.isnan(float(space.project({"x": torch.tensor(math.nan)})["x"]))


# ------------------------------------------------------------------ initial and centre


def test_initial_values_broadcast_to_the_shape():
    initial = mixed().initial()
    assert initial["lr"].shape == ()
    assert initial["momentum"].tolist() == [0.2, 0.9]
    assert initial["weight"].tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert initial["width"] == 64
    rows = Space(x=Real([[1.0], [2.0]], shape=(2, 3))).initial()["x"]
    assert rows.tolist() == [[1.0] * 3, [2.0] * 3]


def test_initial_values_are_the_callers_own():
    start = torch.zeros(2, requires_grad=True)
    space = Space(x=Real(start, shape=(2,)))
    space.initial()["x"].add_(1)
    assert space.initial()["x"].tolist() == [0.0, 0.0]
    assert start.tolist() == [0.0, 0.0]
    assert not space.initial()["x"].requires_grad


def test_the_centre_is_the_median_of_what_is_sampled():
    centre = mixed().centre()
    assert float(centre["lr"]) == pytest.approx(math.sqrt(1e-3 * 10), rel=1e-14)
    torch.testing.assert_close(centre["momentum"], torch.full((2,), 0.495))
    assert centre["weight"].tolist() == [[1.0, 1.0], [1.0, 1.0]]
    assert centre["width"] == 64


@pytest.mark.parametrize("name", ["initial", "centre"])
def test_the_dtype_is_the_default_or_the_one_asked_for(name):
    at = getattr(mixed(), name)
    continuous = mixed().continuous
    assert {at()[k].dtype for k in continuous} == {torch.float64}
    assert {at(torch.float32)[k].dtype for k in continuous} == {torch.float32}
    torch.set_default_dtype(torch.float32)
    assert {at()[k].dtype for k in continuous} == {torch.float32}


# ------------------------------------------------------------------------------ points


def test_flat_names_and_values_in_row_order():
    space = mixed()
    weight = torch.arange(4.0).reshape(2, 2)
    flat = space.point(space.initial() | {"weight": weight})
    assert flat == {
        "lr": 0.1,
        "momentum[0]": 0.2,
        "momentum[1]": 0.9,
        "weight[0,0]": 0.0,
        "weight[0,1]": 1.0,
        "weight[1,0]": 2.0,
        "weight[1,1]": 3.0,
        "width": 64,
    }
    assert list(flat) == list(space.flat_domains())
    assert space.flat_domains()["weight[1,0]"] is space["weight"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_hparams_come_back_from_their_point_bit_for_bit(shape, dtype):
    generator = torch.Generator().manual_seed(0)
    space = Space(x=Positive(1.0, shape=shape), c=Choice(["a", "b"]))
    value = torch.rand(shape, generator=generator, dtype=dtype) + 0.1
    back = space.hparams(space.point({"x": value, "c": "b"}), dtype=dtype)
    assert back["x"].dtype == dtype
    assert torch.equal(back["x"], value)
    assert back["c"] == "b"


def test_the_initial_point_is_exact_in_double_precision():
    torch.set_default_dtype(torch.float32)
    space = Space(lr=Positive(0.1, shape=(2,)), kind=Choice([None, (1, 2)], (1, 2)))
    assert space.initial_point() == {"lr[0]": 0.1, "lr[1]": 0.1, "kind": "(1, 2)"}


def test_what_others_have_is_parsed_to_plain_scalars():
    space = Space(shift=Real(0.0), size=Choice([16, 32]))
    point = space.parse({"size": 32.0, "shift": torch.tensor(0.5)})
    assert point == {"shift": 0.5, "size": 32}
    assert {type(value) for value in point.values()} == {float, int}


def test_a_point_takes_values_that_carry_a_graph():
    value = torch.tensor(2.0, requires_grad=True)
    assert Space(x=Real(0.0)).point({"x": value}) == {"x": 2.0}


# ------------------------------------------------------------------------ a mapping


def test_is_a_mapping_of_its_domains():
    space = mixed()
    assert list(space) == ["lr", "momentum", "weight", "width"]
    assert len(space) == 4
    assert "lr" in space
    assert "depth" not in space
    assert space["width"] == Choice([32, 64], initial=64)
    assert repr(Space(x=Unit(0.5))).startswith("Space(x=Unit(initial=0.5")


def test_choice_starts_with_its_first_option():
    assert Choice(["sgd", "adam"]).initial == "sgd"
    assert Choice(["sgd", "adam"], initial="adam").initial == "adam"


# ---------------------------------------------------------------------------- refusals

REFUSED = {
    "low above high": (
        lambda: Real(0.0, low=1.0, high=-1.0),
        r"Real needs low < high, but got low=1.0, high=-1.0: swap or widen",
    ),
    "low equal to high": (
        lambda: Unit(0.5, low=0.5, high=0.5),
        r"Unit needs low < high, but got low=0.5, high=0.5",
    ),
    "bounds that are no numbers": (
        lambda: Real(0.0, low=math.nan, high=1.0),
        r"Real needs low < high, but got low=nan",
    ),
    "start below": (
        lambda: Positive(0.1, low=1.0, high=2.0),
        r"Positive needs low <= initial <= high, but got initial=0.1, low=1.0, "
        r"high=2.0: move the start or the bounds",
    ),
    "one element above": (
        lambda: Unit([0.5, 0.95], low=0.0, high=0.9, shape=(2,)),
        r"Unit needs low <= initial <= high, but got initial=\[0.5, 0.95\]",
    ),
    "start that is no number": (
        lambda: Real(math.nan),
        r"Real needs low <= initial <= high, but got initial=nan",
    ),
    "infinite start": (
        lambda: Real(math.inf),
        r"Real needs a start strictly inside its natural range, but got initial=inf",
    ),
    "positive start at zero": (
        lambda: Positive(0.0),
        r"Positive needs a start strictly inside its natural range, but got "
        r"initial=0.0: move it off the boundary, or use Real with bounds",
    ),
    "unit start at one": (
        lambda: Unit(1.0),
        r"Unit needs a start strictly inside its natural range, but got initial=1.0",
    ),
    "negative positive": (
        lambda: Positive(1.0, low=-1.0),
        r"Positive needs low >= 0, but got low=-1.0: use Real for values of either",
    ),
    "unit beyond one": (
        lambda: Unit(0.5, high=1.5),
        r"Unit needs 0 <= low and high <= 1, but got low=0.0, high=1.5: use Real",
    ),
    "unit below zero": (
        lambda: Unit(0.5, low=-0.5),
        r"Unit needs 0 <= low and high <= 1, but got low=-0.5, high=1.0",
    ),
    "start of another length": (
        lambda: Real([1.0, 2.0], shape=(3,)),
        r"Real needs an initial value that broadcasts to shape=\(3,\), but got one of "
        r"shape \(2,\): reshape it",
    ),
    "start of more dimensions": (
        lambda: Real([[1.0, 2.0]], shape=(2,)),
        r"Real needs an initial value that broadcasts to shape=\(2,\), but got one of "
        r"shape \(1, 2\)",
    ),
    "start for a scalar": (
        lambda: Positive([1.0, 2.0]),
        r"Positive needs an initial value that broadcasts to shape=\(\), but got",
    ),
    "no options": (lambda: Choice([]), "Choice needs at least one option"),
    "initial that is no option": (
        lambda: Choice([1, 2], initial=3),
        r"Choice needs initial among its options \[1, 2\], but got 3",
    ),
    "a number for a domain": (
        lambda: Space(lr=0.1),
        r"hyperparameter 'lr' needs Positive, Unit, Real or Choice, but got 0.1",
    ),
    "an unknown name": (
        lambda: mixed()["momentun"],
        r"unknown hyperparameter 'momentun': did you mean 'momentum'\? available: lr, "
        r"momentum, weight, width",
    ),
    "the centre without bounds": (
        lambda: Space(x=Real(0.0)).centre(),
        r"the centre needs finite bounds, but got low=-inf, high=inf: give low= and",
    ),
    "the centre of a positive from zero": (
        lambda: Space(x=Positive(1.0, high=2.0)).centre(),
        r"the centre of a Positive needs low > 0, but got low=0.0: give the smallest",
    ),
    "a missing value": (
        lambda: mixed().check({"lr": torch.tensor(0.1)}),
        r"hyperparameter 'momentum' is missing: got \['lr'\], the space has \['lr', ",
    ),
    "a value too many": (
        lambda: mixed().unconstrained(mixed().initial() | {"momenta": 1}),
        r"unknown hyperparameter 'momenta': did you mean 'momentum'",
    ),
    "a value of another shape": (
        lambda: mixed().check(mixed().initial() | {"momentum": torch.zeros(3)}),
        r"hyperparameter 'momentum' needs shape \(2,\), but got \(3,\)",
    ),
    "a value that is no tensor": (
        lambda: mixed().check(mixed().initial() | {"lr": 0.1}),
        r"hyperparameter 'lr' needs a tensor of shape \(\), but got 0.1",
    ),
    "an unknown flat name": (
        lambda: Space(x=Real(0.0, shape=(2,))).hparams({"x[0]": 0, "x[2]": 0}),
        r"unknown hyperparameter 'x\[2\]': did you mean 'x\[.\]'\? available: x\[0\], ",
    ),
    "a missing element": (
        lambda: Space(x=Real(0.0, shape=(2,))).hparams({"x[0]": 0.0}),
        r"hyperparameter 'x\[1\]' is missing: got \['x\[0\]'\]",
    ),
}


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
def test_refuses(make, message):
    with pytest.raises(ValueError, match=message):
        make()
