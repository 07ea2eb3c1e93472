"""Optimizers of `torch.optim` that begin to learn where they stand."""

import copy

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from raymeta import online
from tests.online.test_base import assert_same, gradient, network, train


def warm(optimizer):
    return LambdaLR(optimizer, lambda t: min(t / 3, 1.0))


def scheduled(net, optimizer, scheduler, steps):
    for t in steps:
        gradient(net, t)
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("rule", [online.SGD, online.Adam, online.AdamW, online.Muon])
def test_it_learns_as_the_one_that_was_made_to_learn(rule):
    plain, made = network(), network()
    optimizer = rule.RULE(plain.parameters(), lr=0.01)
    assert online.from_torch(optimizer) is optimizer
    train(plain, optimizer, range(6))
    other = rule(made.parameters(), lr=0.01)
    train(made, other, range(6))
    assert_same(plain, made)
    assert optimizer.learned.equals(other.learned)
    assert optimizer.point == {"lr": optimizer.learned["lr"].iloc[-1]}
    assert optimizer.learned["lr"].nunique() > 3


def test_a_scheduler_that_holds_it_scales_what_it_learns():
    plain, made = network(), network()
    optimizer = torch.optim.AdamW(plain.parameters(), lr=0.01)
    scheduler = warm(optimizer)  # whose first rate is 0
    online.from_torch(optimizer)
    scheduled(plain, optimizer, scheduler, range(8))
    other = online.AdamW(made.parameters(), lr=0.01)
    scheduled(made, other, warm(other), range(8))
    assert_same(plain, made)
    assert optimizer.learned["lr"][0] == 0
    assert optimizer.point == other.point


def test_what_went_through_a_plain_optimizer_s_state_goes_on_to_the_bit():
    """As trainers do that load the state before the optimizer learns."""
    whole = network()
    learning = online.AdamW(whole.parameters(), lr=1e-3, learn=("lr", "weight_decay"))
    train(whole, learning, range(12))

    half = network()
    first = online.AdamW(half.parameters(), lr=1e-3, learn=("lr", "weight_decay"))
    train(half, first, range(6))
    plain = torch.optim.AdamW(half.parameters())
    plain.load_state_dict(first.state_dict())
    online.from_torch(plain, ("lr", "weight_decay"))
    train(half, plain, range(6, 12))
    assert_same(whole, half)
    assert plain.learned.equals(learning.learned)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", [{}, {"per": "weight"}, {"trace": 0.9}])
def test_a_distributed_checkpoint_goes_on_to_the_bit(options):
    from torch.distributed.checkpoint import state_dict as dcp

    whole, half = network(), network()
    optimizer = online.AdamW(whole.parameters(), **options)
    train(whole, optimizer, range(6))
    saved = copy.deepcopy(dcp.get_optimizer_state_dict(whole, optimizer))
    half.load_state_dict(whole.state_dict())
    resumed = online.AdamW(half.parameters(), **options)
    dcp.set_optimizer_state_dict(half, resumed, saved)
    for net, each in ((whole, optimizer), (half, resumed)):
        train(net, each, range(6, 12))
    assert_same(whole, half)
    assert optimizer.learned.equals(resumed.learned)


def test_a_weight_decay_of_zero_stays():
    net = network()
    first, second = net[0].weight, net[2].weight
    optimizer = torch.optim.AdamW(
        [{"params": [first], "weight_decay": 0.1}, {"params": [second]}],
        weight_decay=0.0,
    )
    online.from_torch(optimizer, ["lr", "weight_decay"])
    train(net, optimizer, range(3))
    assert list(optimizer.point) == ["lr[0]", "weight_decay[0]", "lr[1]"]


def replaced(optimizer):
    optimizer.step = lambda: None
    return optimizer


@pytest.mark.parametrize(
    ("make", "learn", "message"),
    [
        (lambda p: torch.optim.RMSprop(p), "lr", "only SGD, Adam, AdamW, Muon"),
        (lambda p: online.AdamW(p), "lr", "this AdamW learns already"),
        (lambda p: replaced(torch.optim.SGD(p, 0.1)), "lr", "step of this SGD was"),
        (lambda p: torch.optim.SGD(p, 0.1), "beta1", "hyperparameter of raymeta.*SGD"),
        (lambda p: torch.optim.SGD(p, 0.1), "weight_decay", "weight_decay=0 in all"),
        (lambda p: torch.optim.SGD(p, 0.1), "momentum", "needs a start above 0"),
    ],
)
def test_what_it_refuses_stays_as_it_was(make, learn, message):
    w = nn.Parameter(torch.ones(2))
    optimizer = make([w])
    kind, before = type(optimizer), dict(optimizer.param_groups[0])
    with pytest.raises(ValueError, match=message) as caught:
        online.from_torch(optimizer, learn)
    assert "\n" not in str(caught.value)
    assert type(optimizer) is kind
    assert optimizer.param_groups[0] == before
