"""Random functions of all distributions follow (seed, t), against their moments."""

import math

import pytest
import torch
from torch import distributions as D
from torch import nn
from torch.nn import functional as F

from raymeta.modules import Noise
from raymeta.modules.overrides.modes import Substitutes

pytestmark = pytest.mark.usefixtures("float64")
MANY = 40_000


def within(draw, t=3):
    with Substitutes(Noise(5, torch.as_tensor(t))) as rules:
        result = draw()
    assert rules.used
    return result


def full(value: float) -> torch.Tensor:
    return torch.full((MANY,), value, dtype=torch.float64)


def of(distribution: D.Distribution):
    return lambda: distribution.sample((MANY,))


def empty(dtype=torch.float64) -> torch.Tensor:
    return torch.empty(MANY, dtype=dtype)


P = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
#: name -> (draw, mean, variance); what has none is mapped to what has.
DRAWS = {
    "randint": (lambda: torch.randint(4, (MANY,)), 1.5, 1.25),
    "randint from": (lambda: torch.randint(-2, 3, (4, MANY // 4)), 0.0, 2.0),
    "randint by name": (lambda: torch.randint(low=-2, high=3, size=(MANY,)), 0.0, 2.0),
    "randint like": (lambda: torch.randint_like(full(0), 4), 1.5, 1.25),
    "randint like from": (lambda: torch.randint_like(full(0), 1, 3), 1.5, 0.25),
    "random": (lambda: empty(torch.int64).random_(4), 1.5, 1.25),
    "random from": (lambda: empty().random_(2, 4), 2.5, 0.25),
    "random of bytes": (lambda: empty(torch.uint8).random_(), 127.5, 256**2 / 12),
    "random of floats": (
        lambda: empty(torch.float32).random_() / 2**24,
        0.5,
        1 / 12,
    ),
    "randperm": (lambda: torch.randperm(MANY) / MANY, 0.5, 1 / 12),
    "normal": (lambda: torch.normal(1.0, 2.0, (MANY,)), 1.0, 4.0),
    "normal by name": (lambda: torch.normal(mean=0.0, std=1, size=(MANY,)), 0.0, 1.0),
    "normal of means": (lambda: torch.normal(full(1), 2.0), 1.0, 4.0),
    "normal of deviations": (lambda: torch.normal(1.0, full(2)), 1.0, 4.0),
    "normal of both": (lambda: torch.normal(full(1), full(2)), 1.0, 4.0),
    "poisson": (lambda: torch.poisson(full(2.5)), 2.5, 2.5),
    "poisson of many": (lambda: torch.poisson(full(4000.0)), 4000.0, 4000.0),
    "binomial": (lambda: torch.binomial(full(9), full(0.3)), 2.7, 1.89),
    "cauchy": (
        lambda: empty().cauchy_(1, 2).sub(1).div(2).atan(),
        0.0,
        math.pi**2 / 12,
    ),
    "log normal": (lambda: empty().log_normal_(1, 0.5).log(), 1.0, 0.25),
    "geometric": (lambda: empty().geometric_(0.25), 4.0, 12.0),
    "multinomial": (lambda: torch.multinomial(P, MANY, True), 0.8, 0.76),
    "multinomial method": (lambda: P.multinomial(MANY, replacement=True), 0.8, 0.76),
    "gamma": (lambda: torch._standard_gamma(full(2.5)), 2.5, 2.5),
    "complex": (lambda: torch.randn(MANY, dtype=torch.complex128).abs() ** 2, 1.0, 1.0),
    "Normal": (of(D.Normal(1.0, 2.0)), 1.0, 4.0),
    "Uniform": (of(D.Uniform(-1.0, 3.0)), 1.0, 4 / 3),
    "Exponential": (of(D.Exponential(torch.tensor(0.5))), 2.0, 4.0),
    "Laplace": (of(D.Laplace(torch.tensor(1.0), torch.tensor(2.0))), 1.0, 8.0),
    "Gumbel": (of(D.Gumbel(0.0, 1.0)), 0.57722, math.pi**2 / 6),
    "Gamma": (of(D.Gamma(torch.tensor(2.5), torch.tensor(0.5))), 5.0, 10.0),
    "Chi2": (of(D.Chi2(torch.tensor(3.0))), 3.0, 6.0),
    "StudentT": (of(D.StudentT(torch.tensor(9.0))), 0.0, 9 / 7),
    "Beta": (of(D.Beta(torch.tensor(2.0), torch.tensor(3.0))), 0.4, 0.04),
    "Dirichlet": (lambda: D.Dirichlet(4 * P).sample((MANY,))[:, 0], 0.5, 0.05),
    "Poisson": (of(D.Poisson(torch.tensor(2.5))), 2.5, 2.5),
    "Binomial": (of(D.Binomial(9, torch.tensor(0.3))), 2.7, 1.89),
    "Geometric": (of(D.Geometric(torch.tensor(0.25))), 3.0, 12.0),
    "Bernoulli": (of(D.Bernoulli(torch.tensor(0.3))), 0.3, 0.21),
    "Categorical": (of(D.Categorical(P)), 0.8, 0.76),
    "LogNormal": (lambda: D.LogNormal(1.0, 0.5).sample((MANY,)).log(), 1.0, 0.25),
    "Kumaraswamy": (
        of(D.Kumaraswamy(torch.tensor(1.0), torch.tensor(1.0))),
        0.5,
        1 / 12,
    ),
    "RelaxedBernoulli": (
        lambda: D.RelaxedBernoulli(0.01, torch.tensor(0.3)).sample((MANY,)).round(),
        0.3,
        0.21,
    ),
    "OneHotCategorical": (
        lambda: D.OneHotCategorical(P).sample((MANY,))[:, 1],
        0.2,
        0.16,
    ),
    "HalfNormal": (of(D.HalfNormal(1.0)), (2 / math.pi) ** 0.5, 1 - 2 / math.pi),
    "VonMises": (lambda: D.VonMises(0.5, 1e4).sample((MANY,)), 0.5, 1e-4),
    "dropout": (lambda: torch.dropout(full(1), 0.2, True), 1.0, 0.25),
    "dropout in place": (lambda: torch.dropout_(full(1), 0.2, True), 1.0, 0.25),
    "native dropout": (lambda: torch.native_dropout(full(1), 0.2, True)[0], 1.0, 0.25),
    "feature dropout": (
        lambda: torch.feature_dropout(full(1).view(-1, 1, 1), 0.2, True),
        1.0,
        0.25,
    ),
    "rrelu": (lambda: torch.rrelu(-full(1), 0.1, 0.3, True), -0.2, 0.04 / 12),
    "init": (lambda: nn.init.normal_(empty(), 1.0, 2.0), 1.0, 4.0),
    "init uniform": (lambda: nn.init.uniform_(empty(), 0.0, 2.0), 1.0, 1 / 3),
}


@pytest.mark.parametrize(("draw", "mean", "var"), DRAWS.values(), ids=DRAWS)
def test_draws_have_their_moments_and_follow_seed_and_step(draw, mean, var):
    before = torch.get_rng_state()
    x = within(draw)
    assert torch.equal(x, within(draw))
    assert not torch.equal(x, within(draw, t=4))
    assert torch.equal(torch.get_rng_state(), before)
    plain = draw()
    assert (x.shape, x.dtype) == (plain.shape, plain.dtype)
    torch.set_rng_state(before)
    values = x.double()
    assert float(values.mean()) == pytest.approx(mean, abs=5 * math.sqrt(var / MANY))
    assert float(values.var()) == pytest.approx(var, rel=0.1)


def test_permutations_are_those():
    assert torch.equal(
        within(lambda: torch.randperm(100)).sort().values, torch.arange(100)
    )


def test_draws_without_replacement_are_different_and_by_probability():
    x = within(lambda: torch.multinomial(P.expand(MANY, 3), 2))
    assert (x[:, 0] != x[:, 1]).all()
    first = torch.bincount(x[:, 0]) / MANY
    torch.testing.assert_close(first, P, atol=0.012, rtol=0)
    # Of those who drew 0 first, 2 is next with probability .3 / .5.
    then = (x[x[:, 0] == 0, 1] == 2).double().mean()
    assert float(then) == pytest.approx(0.6, abs=0.02)
    never = within(lambda: torch.multinomial(torch.tensor([0.0, 1.0, 1.0]), 2))
    assert 0 not in never


def test_poisson_numbers_are_distributed_as_such():
    x = within(lambda: torch.poisson(full(1.3)))
    for k in range(5):
        p = math.exp(-1.3) * 1.3**k / math.factorial(k)
        share = float((x == k).double().mean())
        assert share == pytest.approx(p, abs=5 * math.sqrt(p / MANY))
    assert (within(lambda: torch.poisson(full(0.0))) == 0).all()


def test_fractional_pooling():
    x = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    flat = nn.FractionalMaxPool2d(2, output_size=4)
    y = within(lambda: flat(x))
    assert torch.equal(y, within(lambda: flat(x)))
    assert not torch.equal(y, within(lambda: flat(x), t=4))
    deep = nn.FractionalMaxPool3d(2, output_size=4, return_indices=True)
    z = x[..., None].expand(-1, -1, -1, -1, 9)
    assert torch.equal(within(lambda: deep(z))[1], within(lambda: deep(z))[1])


VMAPPED = [
    name
    for name in DRAWS
    if name not in {"binomial", "gamma", "VonMises", "Dirichlet", "Beta", "Binomial"}
    and name not in {"Gamma", "Chi2", "StudentT"}
    # They write into a tensor that all tasks share.
    and name not in {"Kumaraswamy", "dropout in place"}
]


@pytest.mark.parametrize("name", VMAPPED)
def test_draws_can_be_vmapped(name):
    draw = DRAWS[name][0]
    together = torch.func.vmap(lambda t: within(draw, t))(torch.arange(2))
    for t in range(2):
        torch.testing.assert_close(together[t], within(draw, t))


def test_gumbel_softmax_can_be_vmapped():
    logits = P.log().expand(5, 3)
    together = torch.func.vmap(lambda t: within(lambda: F.gumbel_softmax(logits), t))
    torch.testing.assert_close(
        together(torch.arange(2))[1], within(lambda: F.gumbel_softmax(logits), 1)
    )
