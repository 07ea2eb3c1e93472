"""Randomness in meta-learnt modules: a function of seed, data and step."""

import random

import numpy as np
import pytest
import torch
from torch import distributions as D
from torch import nn
from torch.nn import functional as F

from raymeta._tree import tree_map
from raymeta.meta import MetaModule, maml
from raymeta.optim import sgd
from raymeta.testing.truth import largest_relative_error
from tests.support.learners import (
    assert_close,
    differences,
    gradients,
    seeded,
    sinusoids,
)

pytestmark = pytest.mark.usefixtures("float64")

each_engine = pytest.mark.parametrize("engine", ["functional", "higher"])


class Drawing(nn.Module):
    """A small network that something random happens in."""

    def __init__(self, draw) -> None:
        super().__init__()
        self.a, self.b, self.draw = nn.Linear(1, 4), nn.Linear(4, 1), draw

    def forward(self, x):
        return self.b(self.draw(self.a(x).tanh()))


class Layered(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.a, self.b, self.layer = nn.Linear(1, 4), nn.Linear(4, 1), layer

    def forward(self, x):
        return self.b(self.layer(self.a(x).tanh()))


def filled(h, fill: str, *settings):
    noise = torch.empty(h.shape)
    getattr(noise, fill)(*settings)
    return h + 0.1 * noise


def buried(h):
    z = torch.zeros(len(h), 4)
    z[:, 0] = torch.rand(len(h))
    return h + z


def with_numpy(h):
    return h * float(np.random.uniform(0.5, 1.5))  # noqa: NPY002


DRAWS = {
    "randperm": lambda h: 0.5 * h + 0.5 * h[torch.randperm(len(h))],
    "multinomial": lambda h: h * torch.multinomial(torch.ones(len(h), 4), 1),
    "normal": lambda h: h + torch.normal(0.0, 0.1, h.shape),
    "normal of tensors": lambda h: h + torch.normal(torch.zeros(4), torch.ones(4)),
    "randint": lambda h: h * torch.randint(1, 4, (4,)),
    "randint like": lambda h: h * torch.randint_like(h, 1, 4),
    "rand": lambda h: h * torch.rand(4),
    "normal fill": lambda h: filled(h, "normal_"),
    "uniform fill": lambda h: filled(h, "uniform_"),
    "random fill": lambda h: filled(h, "random_", 5),
    "cauchy fill": lambda h: filled(h, "cauchy_"),
    "geometric fill": lambda h: filled(h, "geometric_", 0.5),
    "log normal fill": lambda h: filled(h, "log_normal_"),
    "exponential fill": lambda h: filled(h, "exponential_"),
    "new fill": lambda h: h + h.new_empty(4).normal_(),
    "part of a tensor": buried,
    "poisson": lambda h: h * torch.poisson(torch.full((4,), 2.0)),
    "binomial": lambda h: (
        h * torch.binomial(torch.full((4,), 5.0), torch.full((4,), 0.5))
    ),
    "gumbel softmax": lambda h: F.gumbel_softmax(h),
    "Normal": lambda h: D.Normal(h, 0.1 + h.square()).rsample(),
    "Laplace": lambda h: D.Laplace(h, 0.1 + h.square()).rsample(),
    "Gumbel": lambda h: D.Gumbel(h, 0.1 + h.square()).rsample(),
    "LogNormal": lambda h: D.LogNormal(h, 0.1).rsample(),
    "Cauchy": lambda h: D.Cauchy(h, 0.1).rsample().tanh(),
    "Exponential": lambda h: D.Exponential(h.exp()).rsample(),
    "Uniform": lambda h: D.Uniform(h, h + 1).rsample(),
    "RelaxedBernoulli": lambda h: D.RelaxedBernoulli(0.5, logits=h).rsample(),
    "Gamma of constants": lambda h: h * D.Gamma(2.0, 1.0).rsample((4,)),
    "StudentT": lambda h: D.StudentT(5.0, h, 0.1).rsample(),
    "Dirichlet of constants": lambda h: h * D.Dirichlet(torch.ones(4)).rsample(),
    "Beta of constants": lambda h: h * D.Beta(2.0, 1.0).rsample((4,)),
    "Categorical": lambda h: h * D.Categorical(torch.ones(4)).sample((4,)),
    "MultivariateNormal": lambda h: D.MultivariateNormal(h, torch.eye(4)).rsample(),
    "Python": lambda h: h * random.uniform(0.5, 1.5),
    "numpy": with_numpy,
}
LAYERS = {
    "Dropout": lambda: nn.Dropout(0.3),
    "AlphaDropout": lambda: nn.AlphaDropout(0.3),
    "FeatureAlphaDropout": lambda: nn.FeatureAlphaDropout(0.3),
    "RReLU": nn.RReLU,
}


def net(name: str) -> nn.Module:
    if name in LAYERS:
        return seeded(lambda: Layered(LAYERS[name]()))
    return seeded(lambda: Drawing(DRAWS[name]))


def made(name: str, engine: str = "functional", **options) -> MetaModule:
    learner = maml(net(name), loss=F.mse_loss, optimizer=sgd(0.05), steps=2, **options)
    return MetaModule(learner, engine=engine)


@pytest.fixture(autouse=True)
def _generators_are_left_alone():
    def states():
        return torch.get_rng_state(), random.getstate(), np.random.get_state()[1]  # noqa: NPY002

    before = states()
    yield
    after = states()
    assert torch.equal(after[0], before[0])
    assert after[1] == before[1]
    assert (after[2] == before[2]).all()


@pytest.mark.parametrize("name", [*DRAWS, *LAYERS])
def test_both_engines_draw_the_same_from_data_and_step(name):
    modules = [made(name, engine) for engine in ("functional", "higher")]
    episodes = sinusoids(3)
    outputs = [[module(episodes) for _ in range(2)] for module in modules]
    first = outputs[0][0].losses.detach()
    assert first.isfinite().all()
    for both in outputs:
        for out in both:
            assert_close(out.losses.detach(), first)
    pairs = zip(modules, outputs, strict=True)
    assert_close(*[gradients(module, out[0].loss) for module, out in pairs])
    # In whatever order tasks are.
    turned = tree_map(lambda x: x.flip(0), episodes)
    for module in modules:
        assert_close(module(turned).losses.detach(), first.flip(0))


#: One of each kind: a fill, a sampler, another generator, a distribution, a layer.
UNLIKE = ["uniform fill", "poisson", "Python", "Normal", "Dropout"]


@each_engine
@pytest.mark.parametrize("name", UNLIKE)
def test_draws_depend_on_the_seed_and_on_no_other_task(name, engine):
    module, episodes = made(name, engine), sinusoids(3)
    first = module(episodes).losses.detach()
    alone = tree_map(lambda x: x[1:2], episodes)
    assert_close(module(alone).losses.detach(), first[1:2])
    assert_close(module.eval()(episodes).losses, first)
    other = made(name, engine, seed=1)
    assert not torch.allclose(other(episodes).losses, first, rtol=1e-6)


TRUE = [
    *(
        "randperm",
        "normal",
        "Normal",
        "Laplace",
        "Gumbel",
        "Exponential",
        "uniform fill",
    ),
    *("RelaxedBernoulli", "MultivariateNormal", "gumbel softmax", "StudentT"),
]


@pytest.mark.parametrize("name", TRUE)
def test_meta_gradients_through_what_is_drawn(name):
    module, episodes = made(name), sinusoids(2)
    grads = gradients(module, module(episodes).loss)
    truth = differences(module.learner, episodes)
    assert largest_relative_error(grads, truth) < 1e-6


@each_engine
@pytest.mark.parametrize(
    "draw",
    [
        lambda h: D.Gamma(h.exp(), 1.0).rsample(),
        lambda h: D.Dirichlet(h.exp()).rsample(),
        lambda h: D.Beta(h.exp(), 1.0).rsample(),
        lambda h: D.StudentT(3 + h.exp()).rsample(),
    ],
    ids=["Gamma", "Dirichlet", "Beta", "StudentT"],
)
def test_samplers_without_a_second_derivative_are_refused(draw, engine):
    learner = maml(seeded(lambda: Drawing(draw)), loss=F.mse_loss, optimizer=sgd(0.05))
    line = r"^(reverse mode needs .* fomaml|raymeta cannot differentiate past) .*$"
    with pytest.raises(ValueError, match=line):
        MetaModule(learner, engine=engine)(sinusoids(2))
