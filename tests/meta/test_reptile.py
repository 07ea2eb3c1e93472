"""Reptile against its definition."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from raymeta.meta import (
    Episode,
    Examples,
    MetaModule,
    reptile,
)
from raymeta.optim import sgd
from tests.support.learners import (
    assert_close,
    fitted,
    gradients,
    mlp,
    mse,
    sinusoids,
    tasks,
)

pytestmark = pytest.mark.usefixtures("float64")

each_engine = pytest.mark.parametrize("engine", ["functional", "higher"])


# ------------------------------------------------------------------------------ Reptile


@each_engine
def test_reptile_is_the_way_back_from_where_training_leads(engine):
    net, episodes = mlp(), sinusoids()
    learner = reptile(net, loss=F.mse_loss, optimizer=sgd(0.1), steps=4)
    module = MetaModule(learner, engine=engine)
    output = module(episodes)
    losses, ways = [], []
    theta = {k: p.detach() for k, p in net.named_parameters()}
    for one in tasks(episodes):
        start = {k: p.clone() for k, p in theta.items()}
        phi = fitted(net, start, one.support, 4)
        losses.append(mse(phi, one.query, net).detach())
        ways.append({k: theta[k] - p.detach() for k, p in phi.items()})
    assert_close(output.losses.detach(), torch.stack(losses))
    truth = {k: torch.stack([way[k] for way in ways]).mean(0) for k in theta}
    assert_close(gradients(module, output.loss), truth)


@each_engine
def test_reptiles_steps_see_batches_of_real_examples_in_turn(engine):
    """A constant model and one example a step: the weights are what they saw."""
    targets = torch.tensor([[1.0, 9.0, 2.0, 3.0], [4.0, 9.0, 9.0, 5.0]])
    weight = (targets < 9).double()
    support = Examples(torch.ones(2, 4, 1), targets[..., None], weight)
    query = Examples.unweighted(torch.ones(2, 1, 1), torch.zeros(2, 1, 1))
    net = nn.Linear(1, 1, bias=False)
    # (w - y)² by a rate of one half: w ← y.
    learner = reptile(net, loss=F.mse_loss, optimizer=sgd(0.5), steps=1, batch_size=1)
    module, episodes = MetaModule(learner, engine=engine), Episode(support, query)
    seen = [module.adapt(episodes, n).params["weight"][:, 0, 0] for n in range(1, 7)]
    first, second = torch.stack(seen, 1).detach().round(decimals=9).tolist()
    assert sorted(first[:3]) == [1.0, 2.0, 3.0]
    assert first[3:] == first[:3]
    assert sorted(second[:2]) == [4.0, 5.0]
    assert second[2:] == second[:2] * 2
