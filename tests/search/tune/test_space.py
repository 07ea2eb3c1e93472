import math

import pytest
import torch
from ray.tune.search.sample import Categorical, Float, LogUniform, Uniform

from raymeta.search.tune.space import decode, encode, initial_point, to_tune
from raymeta.space import Choice, Positive, Real, Space, Unit

SPACE = Space(
    lr=Positive(0.1, low=1e-3, high=1.0, shape=(2,)),
    momentum=Unit(0.9, high=0.99),
    shift=Real(-1.0, low=-2.0, high=3.0),
    kind=Choice([None, "a", (1, 2)], initial="a"),
)


def test_every_scalar_gets_the_domain_of_its_kind():
    domains = to_tune(SPACE)

    assert list(domains) == ["lr[0]", "lr[1]", "momentum", "shift", "kind"]
    bounds = {"lr[0]": (1e-3, 1.0), "momentum": (0.0, 0.99), "shift": (-2.0, 3.0)}
    for name, (low, high) in bounds.items():
        assert isinstance(domains[name], Float)
        assert (domains[name].lower, domains[name].upper) == (low, high)
        kind = LogUniform if name == "lr[0]" else Uniform
        assert isinstance(domains[name].get_sampler(), kind)
    assert isinstance(domains["kind"], Categorical)
    assert domains["kind"].categories == [None, "a", (1, 2)]


@pytest.mark.parametrize(
    ("domain", "remedy"),
    [
        (Positive(0.1, high=1.0), "low > 0"),
        (Positive(0.1, low=0.01), "give low= and high="),
        (Real(0.0), "give low= and high="),
    ],
)
def test_a_domain_without_bounds_is_refused_by_name(domain, remedy):
    with pytest.raises(ValueError, match=f"'weight'.*{remedy}") as error:
        to_tune(Space(weight=domain))
    assert "\n" not in str(error.value)


def test_the_initial_point_is_exact():
    assert initial_point(SPACE) == {
        "lr[0]": 0.1,
        "lr[1]": 0.1,
        "momentum": 0.9,
        "shift": -1.0,
        "kind": "a",
    }


def test_codes_are_plain_numbers_and_decode_to_the_same_values():
    flat = {**initial_point(SPACE), "kind": (1, 2), "shift": torch.tensor(0.5)}

    coded = encode(SPACE, flat)

    assert coded["kind"] == 2
    assert coded["shift"] == 0.5
    assert {type(code) for code in coded.values()} == {int, float}
    decoded = decode(SPACE, coded)
    assert decoded["kind"] == (1, 2)
    assert math.isclose(decoded["lr[1]"], 0.1, rel_tol=0)
