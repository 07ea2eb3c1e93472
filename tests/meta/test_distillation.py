"""Learned data sets and distillation against their papers."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from raymeta.data import DigitBatches
from raymeta.meta import (
    Episode,
    MetaModule,
    RandomWeights,
    distillation,
    learned_dataset,
)
from tests.support.learners import (
    agree,
    assert_close,
    descend,
    seeded,
)

pytestmark = pytest.mark.usefixtures("float64")

each_engine = pytest.mark.parametrize("engine", ["functional", "higher"])


# ----------------------------------------------------------------- what is learnt: data


def test_the_learned_dataset_has_half_of_its_points_of_each_label():
    learner = learned_dataset()
    assert learner.meta["points"].shape == (100, 2)
    assert learner.steps == 3
    points = learner.meta["points"].clone()
    points[:50, 0], points[50:, 0] = -9.0, 9.0
    module = MetaModule(learner).eval()
    with torch.no_grad():
        module.theta()["points"].copy_(points)
    right = {"w": torch.tensor([[5.0, 0.0]]), "b": torch.zeros(1)}
    wrong = {"w": torch.tensor([[-5.0, 0.0]]), "b": torch.zeros(1)}
    assert module(Episode(right, ())).metrics["accuracy"].tolist() == [1.0]
    assert module(Episode(wrong, ())).metrics["accuracy"].tolist() == [0.0]


@pytest.mark.parametrize("sizes", [(3, 2), (0, 2), (4, 0)])
def test_the_learned_dataset_needs_points(sizes):
    with pytest.raises(
        ValueError, match="an even number of points and dimensions >= 1"
    ):
        learned_dataset(*sizes)


def digits_net() -> nn.Module:
    return seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))


@each_engine
@pytest.mark.parametrize("random", [False, True], ids=["fixed", "random"])
def test_distillation(engine, random):
    net, family = digits_net(), DigitBatches(batch_size=15)
    if random:
        family = RandomWeights(family, net)
    episodes = family.episodes(0, 3, 0, 3, seed=0, split="train")
    images = seeded(lambda: torch.randn(2, 10, 1, 8, 8))
    learner = distillation(
        net,
        loss=F.cross_entropy,
        images=images,
        labels=torch.arange(10),
        lr=0.3,
        epochs=2,
    )
    assert learner.steps == 4
    assert_close(learner.meta["log_lr"].exp(), torch.full((4,), 0.3))
    learner.meta["log_lr"].add_(torch.arange(4.0))

    def on(images, params):
        return F.cross_entropy(functional_call(net, params, images), torch.arange(10))

    def by_hand(theta, one):
        start = one.support or {k: p.detach() for k, p in net.named_parameters()}
        phi = {k: p.clone() for k, p in start.items()}
        for t in range(4):
            rate, x = theta["log_lr"][t].exp(), theta["images"][t % 2]
            phi = descend(partial(on, x), phi, lambda name, _, rate=rate: rate, 1)
        outputs = functional_call(net, phi, one.query.inputs)
        return F.cross_entropy(outputs, one.query.targets)

    agree(learner, by_hand, engine, episodes)


def test_random_weights_are_like_the_modules_own_and_each_tasks_alone():
    net = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 400)))
    family = RandomWeights(DigitBatches(batch_size=5), net)
    all_of_them = family.episodes(3, 4, 0, 4, seed=0, split="train")
    some = family.episodes(3, 4, 2, 4, seed=0, split="train")
    for name, own in net.state_dict().items():
        weights = all_of_them.support[name]
        assert weights.shape == (4, *own.shape)
        assert torch.equal(weights[2:], some.support[name])
        assert float(weights.std()) == pytest.approx(float(own.std()), rel=0.1)
        assert float((weights[0] - weights[1]).abs().mean()) > 0
    assert torch.equal(all_of_them.query.inputs[2:], some.query.inputs)
    other = family.episodes(4, 4, 0, 4, seed=0, split="train")
    assert not torch.equal(other.support["1.weight"], all_of_them.support["1.weight"])


@pytest.mark.parametrize(
    ("images", "labels", "others", "message"),
    [
        (torch.zeros(2, 3, 4), torch.zeros(2), {}, "with labels"),
        (torch.zeros(2, 2, 4), torch.zeros(2), {"lr": 0.0}, "lr > 0 and epochs >= 1"),
        (torch.zeros(2, 2, 4), torch.zeros(2), {"epochs": 0}, "lr > 0 and epochs >= 1"),
    ],
)
def test_distillation_needs(images, labels, others, message):
    with pytest.raises(ValueError, match=message):
        distillation(
            digits_net(), loss=F.cross_entropy, images=images, labels=labels, **others
        )
