"""Inner optimizers however they are given: rules, functions of θ, `torch.optim`."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from raymeta._tree import tree_leaves
from raymeta.meta import MetaModule, anil, cavia, fomaml, imaml, learned_dataset, maml
from raymeta.optim import adam, first_order, from_torch, sgd
from raymeta.optim.clip import clip_by_norm
from raymeta.testing.optimizers import gradients
from raymeta.testing.problems import random_tensors
from tests.support.learners import assert_close, classifiers, mlp, sinusoids

pytestmark = pytest.mark.usefixtures("float64")

each_engine = pytest.mark.parametrize("engine", ["functional", "higher"])


def follow(rule, optimizer, params) -> None:
    """Both take the same steps."""
    start = {k: p.detach().clone() for k, p in params.items()}
    ours, memory = start, rule.init(start)
    for t, grads in enumerate(gradients(5)):
        ours, memory = rule.update(grads, memory, ours, torch.tensor(t))
        for k, p in params.items():
            p.grad = grads[k].clone()
        optimizer.step()
        assert_close(ours, {k: p.detach() for k, p in params.items()})


def leaves() -> dict[str, nn.Parameter]:
    return {k: nn.Parameter(x) for k, x in random_tensors(0).items()}


SETTINGS = {
    "SGD": {"lr": 0.1, "momentum": 0.8, "dampening": 0.1, "weight_decay": 0.2},
    "SGD nesterov": {"lr": 0.1, "momentum": 0.8, "nesterov": True},
    "SGD maximize": {"lr": 0.1, "maximize": True},
    "Adam": {"lr": 0.1, "betas": (0.7, 0.9), "eps": 0.01, "amsgrad": True},
    "AdamW": {"lr": 0.1, "betas": (0.7, 0.9), "weight_decay": 0.2},
    "NAdam": {"lr": 0.1, "momentum_decay": 0.1, "decoupled_weight_decay": True},
    "RAdam": {"lr": 0.1, "betas": (0.7, 0.9), "weight_decay": 0.2},
    "RMSprop": {"lr": 0.1, "alpha": 0.7, "momentum": 0.3, "centered": True},
    "Adagrad": {"lr": 0.1, "lr_decay": 0.2, "initial_accumulator_value": 0.3},
    "Adadelta": {"lr": 0.5, "rho": 0.6, "weight_decay": 0.2},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_from_torch_takes_the_same_steps(name):
    make = partial(getattr(torch.optim, name.split()[0]), **SETTINGS[name])
    params = leaves()
    optimizer = make(params.values())
    follow(from_torch(optimizer), optimizer, params)
    params = leaves()
    follow(from_torch(make), make(params.values()), params)
    params = leaves()
    optimizer = make(params.values(), foreach=False)
    follow(from_torch(optimizer, params), optimizer, params)


def test_groups_keep_their_settings():
    def make(params):
        weight, bias, head = params.values()
        groups = [
            {"params": [head], "lr": 0.3, "betas": (0.5, 0.6)},
            {"params": [weight, bias], "weight_decay": 0.1},
        ]
        return torch.optim.Adam(groups, lr=0.1)

    params = leaves()
    optimizer = make(params)
    follow(from_torch(optimizer, params), optimizer, params)
    params = leaves()
    optimizer = make(params)
    with pytest.raises(ValueError, match="needs params to tell 2 groups apart"):
        from_torch(optimizer)
    others = {**params, "new": nn.Parameter(torch.zeros(1))}
    with pytest.raises(
        ValueError, match=r"Adam does not have \['new'\]: add them to a"
    ):
        from_torch(optimizer, others)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (torch.optim.Rprop, "needs one of SGD, .*Adadelta, but got Rprop: use a rule"),
        (type("Mine", (torch.optim.SGD,), {}), "but got Mine"),
        (
            lambda p: torch.optim.Adam(
                [{"params": p[:1]}, {"params": p[1:], "amsgrad": True}]
            ),
            "one amsgrad for all groups",
        ),
        (
            lambda p: stepped(torch.optim.Adam(p)),
            "no step, as only .* but this Adam has memory",
        ),
    ],
)
def test_from_torch_refuses_what_there_is_no_rule_for(make, message):
    params = leaves()
    with pytest.raises(ValueError, match=message):
        from_torch(make(list(params.values())), params)


def stepped(optimizer):
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.ones_like(p)
    optimizer.step()
    return optimizer


# ------------------------------------------------------------------------- in learners


@each_engine
def test_all_ways_to_say_it_are_the_same(engine):
    net = mlp()
    ways = [
        adam(0.05, betas=(0.7, 0.9)),
        lambda theta: adam(0.05, betas=(0.7, 0.9)),
        torch.optim.Adam(net.parameters(), lr=0.05, betas=(0.7, 0.9)),
        partial(torch.optim.Adam, lr=0.05, betas=(0.7, 0.9)),
        from_torch(partial(torch.optim.Adam, lr=0.05, betas=(0.7, 0.9))),
    ]
    outputs = [
        MetaModule(maml(net, loss=F.mse_loss, optimizer=way, steps=3), engine=engine)(
            sinusoids()
        )
        for way in ways
    ]
    for output in outputs[1:]:
        assert_close(output.losses, outputs[0].losses)
    default = MetaModule(maml(net, loss=F.mse_loss, optimizer=torch.optim.SGD))
    plain = MetaModule(maml(net, loss=F.mse_loss, optimizer=sgd(1e-3)))
    assert_close(default(sinusoids()).losses, plain(sinusoids()).losses)


def test_every_algorithm_takes_torchs():
    rule, make = sgd(0.07), partial(torch.optim.SGD, lr=0.07)
    for algorithm in (
        partial(maml, mlp(), loss=F.mse_loss),
        partial(fomaml, mlp(), loss=F.mse_loss),
        partial(anil, mlp(), loss=F.mse_loss, head="2"),
        partial(cavia, mlp(2), loss=F.mse_loss, context=1),
        partial(imaml, mlp(), loss=F.mse_loss),
    ):
        ours, theirs = (MetaModule(algorithm(optimizer=o)) for o in (rule, make))
        ours.eval(), theirs.eval()
        assert_close(ours(sinusoids()).losses, theirs(sinusoids()).losses)
    ours, theirs = (MetaModule(learned_dataset(optimizer=o)) for o in (rule, make))
    assert_close(ours(classifiers()).losses, theirs(classifiers()).losses)


def test_an_optimizer_must_have_what_the_inner_loop_adapts():
    net = mlp()
    head = torch.optim.SGD(net[2].parameters(), lr=0.1)
    anil(net, head="2", loss=F.mse_loss, optimizer=head)
    message = r"does not have \['0.weight', '0.bias'\]: add them to a group"
    with pytest.raises(ValueError, match=message):
        maml(net, loss=F.mse_loss, optimizer=head)
    net[0].requires_grad_(False)
    maml(net, loss=F.mse_loss, optimizer=head)


# ------------------------------------------------------------------------- first order


def test_first_order_takes_the_same_steps_and_cuts_the_gradient():
    params, grads = random_tensors(0), gradients(3)
    rule, cut = (f(adam(0.1, weight_decay=0.2)) for f in (lambda r: r, first_order))
    ours, theirs = (r.init(params) for r in (rule, cut))
    one = other = params
    for t, g in enumerate(grads):
        one, ours = rule.update(g, ours, one, torch.tensor(t))
        other, theirs = cut.update(g, theirs, other, torch.tensor(t))
        assert_close(other, one)
        assert_close(tree_leaves(theirs), tree_leaves(ours))
    live = {k: g.clone().requires_grad_() for k, g in grads[0].items()}
    moved, _ = cut.update(live, cut.init(params), params, torch.tensor(0))
    assert not any(p.requires_grad for p in moved.values())


def test_first_order_of_what_higher_does_not_know_is_refused_by_it():
    rule = first_order(clip_by_norm(sgd(0.1), 1.0))
    module = MetaModule(maml(mlp(), loss=F.mse_loss, optimizer=rule), engine="higher")
    with pytest.raises(ValueError, match="without clipping around it"):
        module(sinusoids())
