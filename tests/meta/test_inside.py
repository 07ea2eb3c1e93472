"""What users' modules hold: norms, dropout, attention, frozen and tied layers."""

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from raymeta.compile import recurrence
from raymeta.data import FewShot, few_shot_digits
from raymeta.meta import MetaModule, maml
from raymeta.modules import PerStep
from raymeta.optim import sgd
from raymeta.testing.truth import largest_relative_error
from tests.support.learners import (
    assert_close,
    descend,
    differences,
    gradients,
    hand_gradients,
    mlp,
    seeded,
    sinusoids,
)

pytestmark = pytest.mark.usefixtures("float64")

each_engine = pytest.mark.parametrize("engine", ["functional", "higher"])


class Sequence(nn.Module):
    """Numbers (n, 1) as sequences of three vectors; then the mean over them."""

    def __init__(self, layer: nn.Module, width: int = 4) -> None:
        super().__init__()
        self.lift, self.layer = nn.Linear(1, 3 * width), layer
        self.head = nn.Linear(width, 1)

    def forward(self, x):
        y = self.layer(self.lift(x).tanh().view(len(x), 3, -1))
        return self.head((y[0] if isinstance(y, tuple) else y).mean(1))


class Images(nn.Module):
    """Numbers (n, 1) as images, through a convolution and a norm."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.lift = nn.Linear(1, 2 * 4 * 4)
        self.layers = nn.Sequential(
            nn.Conv2d(2, 4, 3), norm, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()
        )
        self.head = nn.Linear(4, 1)

    def forward(self, x):
        return self.head(self.layers(self.lift(x).view(-1, 2, 4, 4)))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lift, self.head = nn.Linear(1, 5), nn.Linear(5, 1)
        self.one, self.two = nn.Linear(5, 5), nn.Linear(5, 5)
        self.two.weight = self.one.weight

    def forward(self, x):
        return self.head(self.two(self.one(self.lift(x)).tanh()).tanh())


def frozen() -> nn.Module:
    net = mlp()
    net[0].weight.requires_grad_(False)
    return net


#: Others are in `test_catalogue`.
MODULES = {
    "batch norm of images": lambda: Images(nn.BatchNorm2d(4)),
    "instance norm": lambda: Images(nn.InstanceNorm2d(4, affine=True)),
    "tied": Tied,
    "frozen": frozen,
}


@each_engine
@pytest.mark.parametrize("name", MODULES)
def test_meta_gradients_through_any_layer(name, engine):
    """Also where torch's own second derivatives within vmap are wrong (norms)."""
    learner = maml(seeded(MODULES[name]), loss=F.mse_loss, optimizer=sgd(0.1), steps=2)
    module, episodes = MetaModule(learner, engine=engine), sinusoids()
    assert_true(gradients(module, module(episodes).loss), learner, episodes)


@each_engine
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN], ids=lambda k: k.__name__)
@pytest.mark.parametrize("body", ["adapted", "frozen"])
def test_recurrent_layers(kind, body, engine):
    """vmap has no rule for them: the functional engine takes task after task."""
    net = seeded(lambda: Sequence(kind(4, 4, batch_first=True)))
    net.layer.requires_grad_(body == "adapted")
    learner, episodes = maml(net, loss=F.mse_loss, optimizer=sgd(0.1)), sinusoids(2)
    module = MetaModule(learner, engine=engine)
    fixed = {k: p for k, p in net.named_parameters() if not p.requires_grad}

    def by_hand(theta, one):
        def loss(params, data):
            outputs = functional_call(net, params | fixed, data.inputs)
            return F.mse_loss(outputs, data.targets)

        phi = descend(lambda p: loss(p, one.support), theta, lambda k, t: 0.1, 1)
        return loss(phi, one.query)

    for _ in range(2):
        losses, grads = hand_gradients(by_hand, module.theta(), episodes)
        output = module(episodes)
        assert_close(output.losses.detach(), losses)
        assert_close(gradients(module, output.loss), grads)
    assert_close(module.eval()(episodes).losses, losses)
    state = module.adapt(episodes)
    assert state.params["head.weight"].shape == (2, 1, 4)


def test_what_vmap_cannot_is_not_compiled(monkeypatch):
    # What it can comes first, and takes seconds to compile.
    monkeypatch.setattr(recurrence, "build", lambda graph, *_: graph.forward)
    net = Sequence(nn.LSTM(4, 4, batch_first=True))
    learner = maml(net, loss=F.mse_loss, optimizer=sgd(0.1))
    with pytest.raises(
        ValueError, match=r"^compile=True .* lstm.*; leave compile out$"
    ):
        MetaModule(learner, compile=True)(sinusoids(1))


def assert_true(grads, learner, episodes) -> None:
    """All of θ together: some weights before a norm have no effect at all."""
    truth = differences(learner, episodes)
    flat = [{"all": torch.cat([g[k].flatten() for k in truth])} for g in (grads, truth)]
    assert largest_relative_error(*flat) < 1e-6


@each_engine
@pytest.mark.parametrize("policy", ["running", "frozen", PerStep(2)], ids=str)
def test_policies_of_batch_norms(policy, engine):
    net = mlp(1, nn.BatchNorm1d(6))
    net[1].running_mean.fill_(0.3)
    learner = maml(net, loss=F.mse_loss, optimizer=sgd(0.1), steps=2, batch_norm=policy)
    module, episodes = MetaModule(learner, engine=engine), sinusoids()
    assert_true(gradients(module, module(episodes).loss), learner, episodes)
    states = module.adapt(episodes)
    kept = states.buffers["1.running_mean"]
    if policy == "frozen":
        assert (kept == 0.3).all()
    else:
        assert len({tuple(row.flatten().tolist()) for row in kept}) == 3


def test_the_batchs_statistics_are_those_of_support_and_query():
    net = mlp(1, nn.BatchNorm1d(6))

    def by_hand(theta, one):
        def loss(params, data):
            x = F.linear(data.inputs, params["0.weight"], params["0.bias"])
            x = (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt()
            x = (x * params["1.weight"] + params["1.bias"]).tanh()
            y = F.linear(x, params["3.weight"], params["3.bias"])
            return F.mse_loss(y, data.targets)

        phi = descend(lambda p: loss(p, one.support), theta, lambda k, t: 0.1, 2)
        return loss(phi, one.query)

    module = MetaModule(maml(net, loss=F.mse_loss, optimizer=sgd(0.1), steps=2))
    losses, grads = hand_gradients(by_hand, module.theta(), sinusoids())
    output = module(sinusoids())
    assert_close(output.losses.detach(), losses)
    assert_close(gradients(module, output.loss), grads, rtol=1e-8)
    assert not module.adapt(sinusoids()).buffers


def test_frozen_layers_are_no_meta_parameters():
    net = frozen()
    module = MetaModule(maml(net, loss=F.mse_loss, optimizer=sgd(0.1), steps=2))
    assert set(module.theta()) == {"0.bias", "2.weight", "2.bias"}

    def by_hand(theta, one):
        weights = {"0.weight": net[0].weight.detach()}

        def loss(params, data):
            outputs = functional_call(net, weights | params, data.inputs)
            return F.mse_loss(outputs, data.targets)

        phi = descend(lambda p: loss(p, one.support), theta, lambda k, t: 0.1, 2)
        return loss(phi, one.query)

    _, grads = hand_gradients(by_hand, module.theta(), sinusoids())
    assert_close(gradients(module, module(sinusoids()).loss), grads)


# ---------------------------------------------------------------------------- dropout


def dropout(engine="functional", **options) -> MetaModule:
    net = mlp(1, nn.Dropout(0.5), width=30)
    learner = maml(net, loss=F.mse_loss, optimizer=sgd(0.05), steps=2, **options)
    return MetaModule(learner, engine=engine)


def test_both_engines_drop_the_same_and_leave_the_generator_alone():
    before = torch.get_rng_state()
    modules = [dropout(engine) for engine in ("functional", "higher")]
    outputs = [module(sinusoids()) for module in modules]
    assert_close(*[out.losses.detach() for out in outputs])
    pairs = zip(modules, outputs, strict=True)
    assert_close(*[gradients(module, out.loss) for module, out in pairs])
    assert torch.equal(torch.get_rng_state(), before)
    other = dropout(seed=1)(sinusoids())
    assert not torch.allclose(other.losses, outputs[0].losses, rtol=1e-3)


def test_meta_gradients_through_dropout():
    module, episodes = dropout(), sinusoids()
    grads = gradients(module, module(episodes).loss)
    assert_true(grads, module.learner, episodes)


class Masks(nn.Module):
    """Its bias goes where its units are not dropped."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(64))

    def forward(self, x):
        return F.dropout(self.shift, 0.5, self.training).sum() - x


def dropped(module: MetaModule, episodes, steps: int = 1):
    """Which units the last of some steps dropped, shape (N, 64)."""
    now, before = (
        module.adapt(episodes, s).params["shift"] for s in (steps, steps - 1)
    )
    return (now == before).detach()


@each_engine
def test_tasks_and_steps_drop_units_of_their_own(engine):
    """On whichever worker, and beside whatever others."""
    learner = maml(Masks(), loss=F.mse_loss, optimizer=sgd(0.01), steps=3)
    module, episodes = MetaModule(learner, engine=engine), sinusoids(6)
    first, second = dropped(module, episodes), dropped(module, episodes, 2)
    rows = [tuple(row.tolist()) for row in (*first, *second)]
    assert len(set(rows)) == 12
    assert 0.3 < float(torch.stack([first, second]).double().mean()) < 0.7
    some = type(episodes)(*(type(p)(*(x[2:4] for x in p)) for p in episodes))
    assert torch.equal(dropped(module, some), first[2:4])
    assert not torch.equal(dropped(module, sinusoids(6, step=1)), first)


# ------------------------------------------------------------------------- real images


@each_engine
def test_a_convolutional_net_on_digits(engine):
    family: FewShot = few_shot_digits()
    episodes = family.episodes(0, 2, 0, 2, seed=0, split="train")
    ways = int(episodes.query.targets.max()) + 1
    net = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64, ways),
        )
    )
    learner = maml(net, loss=F.cross_entropy, optimizer=sgd(0.4), steps=2)
    module = MetaModule(learner, engine=engine)

    def by_hand(theta, one):
        def loss(params, data):
            buffers = {k: b.clone() for k, b in net.named_buffers()}
            outputs = functional_call(net, params | buffers, data.inputs)
            keep = data.weight > 0
            return F.cross_entropy(outputs[keep], data.targets[keep])

        phi = descend(lambda p: loss(p, one.support), theta, lambda k, t: 0.4, 2)
        return loss(phi, one.query)

    losses, grads = hand_gradients(by_hand, module.theta(), episodes)
    output = module(episodes)
    assert_close(output.losses.detach(), losses)
    assert_close(gradients(module, output.loss), grads, rtol=1e-7, atol=1e-10)
