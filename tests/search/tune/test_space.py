import pytest
from ray.tune.search.sample import Categorical, Float, LogUniform, Uniform

from raymeta.search.tune.space import to_tune
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
    assert domains["kind"].categories == [None, "a", "(1, 2)"]


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
