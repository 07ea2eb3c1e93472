"""Modules as people bring them, under every algorithm and engine: the true derivative.

Both engines against one another and against central differences; first-order
algorithms against their definition; what has no derivative is refused in one line.
"""

from itertools import product

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from raymeta.hypergrad import ConjugateGradient
from raymeta.meta import (
    Episode,
    Examples,
    MetaModule,
    cavia,
    first_order,
    fomaml,
    imaml,
    maml,
    meta_sgd,
    reptile,
)
from raymeta.optim import sgd
from tests.meta.test_losses import contrastive, root_mean_square
from tests.support.learners import (
    along,
    assert_close,
    descend,
    gradients,
    hand_gradients,
    seeded,
    slopes,
)

pytestmark = pytest.mark.usefixtures("float64")

each_engine = pytest.mark.parametrize("engine", ["functional", "higher"])
N, SHOTS, INPUTS = 2, 4, 3


def written(h):
    out = torch.zeros(len(h), 4)
    out[:, :2], out[:, 2:] = h[:, :2], h[:, 2:] ** 2
    return out


class Between(nn.Module):
    """A small network with something in between; a context may come with the inputs."""

    def __init__(self, between) -> None:
        super().__init__()
        self.a, self.b, self.between = nn.Linear(INPUTS, 4), nn.Linear(4, 2), between

    def forward(self, x, context=None):
        h = self.a(x).tanh()
        return self.b(self.between(h if context is None else h + context))


class Sequence(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, h):
        y = self.layer(h[:, :, None].expand(-1, -1, 2))
        return (y[0] if isinstance(y, tuple) else y).flatten(1)[:, :4]


def hooked() -> nn.Module:
    layer = nn.Linear(4, 4)
    layer.register_forward_hook(lambda module, inputs, output: output.sin())
    layer.weight.register_hook(lambda g: 0.5 * g)
    return layer


MODULES = {
    "linear": nn.Identity,
    "layer norm": lambda: nn.LayerNorm(4),
    "batch norm": lambda: nn.BatchNorm1d(4),
    "group norm": lambda: nn.GroupNorm(2, 4),
    "dropout": lambda: nn.Dropout(0.3),
    "bilinear": lambda: lambda h: h * h.roll(1, 1).sigmoid(),
    "attention": lambda: Sequence(
        nn.TransformerEncoderLayer(2, 1, 3, dropout=0.0, batch_first=True)
    ),
    "gru": lambda: Sequence(nn.GRU(2, 1, batch_first=True)),
    "frozen lstm": lambda: Sequence(
        nn.LSTM(2, 1, batch_first=True).requires_grad_(False)
    ),
    "weight norm": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)),
    "spectral norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)),
    "convolution": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 4)), nn.Conv1d(1, 2, 3, padding=1), nn.Flatten(),
        nn.Linear(8, 4),
    ),
    "prelu": nn.PReLU,
    "writes": lambda: written,
    "looks at values": lambda: lambda h: h if h.sum() > 0 else h.square(),
    "stopped": lambda: lambda h: h * h.detach(),
    "hooks": hooked,
}  # fmt: skip
LOSSES = {
    "root mean square": root_mean_square,
    "contrastive": contrastive,
}
RULE = {"optimizer": sgd(0.1), "steps": 2}
EXACT = {
    "maml": lambda net, loss: maml(net, loss=loss, **RULE),
    "meta_sgd": lambda net, loss: meta_sgd(net, loss=loss, lr=0.1, steps=2),
    "cavia": lambda net, loss: cavia(
        net, loss=loss, context=4, join="argument", **RULE
    ),
}
#: One of each kind: plain, with statistics, random, with steps in time, frozen, hooked.
UNLIKE = ["linear", "batch norm", "dropout", "gru", "frozen lstm", "hooks"]
#: Modules that padding passes by: others see all examples together, or number them.
APART = ["linear", "layer norm", "attention", "gru", "writes"]
#: Those whose steps a plain loop takes as well.
BY_HAND = sorted(
    MODULES.keys() - {"dropout", "hooks", "stopped", "spectral norm", "batch norm"}
)


def net_of(name: str) -> nn.Module:
    return seeded(lambda: Between(MODULES[name]()))


def episodes(padded: bool = False) -> Episode:
    generator = torch.Generator().manual_seed(3)
    weight = torch.ones(N, SHOTS)
    if padded:
        weight[1, 2:] = 0
    parts = []
    for _ in range(2):
        x = torch.randn(N, SHOTS, INPUTS, generator=generator)
        y = torch.randn(N, SHOTS, 2, generator=generator)
        parts.append(Examples(x, y, weight))
    return Episode(*parts)


def assert_exact(make, tasks: Episode) -> None:
    """Both engines to 1e-10, differences to 1e-6; all of θ together."""
    modules = [MetaModule(make(), engine=engine) for engine in ("functional", "higher")]
    outputs = [module(tasks) for module in modules]
    assert outputs[0].losses.isfinite().all()
    assert_close(*[out.losses.detach() for out in outputs])
    pairs = zip(modules, outputs, strict=True)
    grads = [gradients(module, out.loss) for module, out in pairs]
    assert_close(*grads, rtol=1e-9, atol=1e-10)
    truth, ways = slopes(make(), tasks), along(modules[0].learner.meta)
    error = [(grads[0][k] * way).sum() - truth[k] for k, way in ways.items()]
    whole = torch.cat([g.flatten() for g in grads[0].values()])
    assert float(torch.stack(error).norm() / whole.norm()) < 1e-6
    for module in modules:
        assert_close(module.eval()(tasks).losses, outputs[0].losses.detach())


@pytest.mark.parametrize(
    ("algorithm", "name"),
    [*product(["maml"], MODULES), *product(["meta_sgd", "cavia"], UNLIKE)],
)
def test_meta_gradients_are_true(name, algorithm):
    assert_exact(lambda: EXACT[algorithm](net_of(name), F.mse_loss), episodes())


@pytest.mark.parametrize("name", ["linear", "layer norm"])
@pytest.mark.parametrize("loss", LOSSES)
def test_meta_gradients_of_any_loss_are_true(name, loss):
    def learner():
        return maml(net_of(name), loss=LOSSES[loss], **RULE)

    assert_exact(learner, episodes())


@pytest.mark.parametrize("name", APART)
def test_meta_gradients_of_padded_tasks_are_true(name):
    def learner():
        return maml(net_of(name), loss=F.mse_loss, **RULE)

    assert_exact(learner, episodes(padded=True))


@each_engine
@pytest.mark.parametrize("name", BY_HAND)
def test_first_order_is_the_querys_gradient_where_steps_lead(name, engine):
    net = net_of(name)
    learner = maml(net, loss=F.mse_loss, **RULE)
    fixed = {k: p for k, p in net.named_parameters() if not p.requires_grad}

    def by_hand(theta, one):
        def loss(params, data):
            outputs = functional_call(net, params | fixed, data.inputs)
            return F.mse_loss(outputs, data.targets)

        phi = descend(lambda p: loss(p, one.support), theta, lambda k, t: 0.1, 2)
        there = {k: theta[k] + (phi[k] - theta[k]).detach() for k in phi}
        return loss(there, one.query)

    for made in (first_order(learner), fomaml(net, loss=F.mse_loss, **RULE)):
        module = MetaModule(made, engine=engine)
        losses, grads = hand_gradients(by_hand, module.theta(), episodes())
        output = module(episodes())
        assert_close(output.losses.detach(), losses)
        assert_close(gradients(module, output.loss), grads)


@each_engine
@pytest.mark.parametrize("name", UNLIKE)
def test_reptile_is_the_way_back(name, engine):
    module = MetaModule(reptile(net_of(name), loss=F.mse_loss, **RULE), engine=engine)
    grads = gradients(module, module(episodes()).loss)
    ends = module.adapt(episodes()).params
    for key, value in module.theta().items():
        assert_close(grads[key], (value - ends[key].mean(0)).detach())


@pytest.mark.parametrize("name", ["linear", "layer norm", "attention", "prelu"])
def test_imaml_where_the_inner_problem_is_solved(name):
    """Then the minimum's derivative is that of the way to it."""
    net = net_of(name)

    def learner(loss=F.mse_loss):
        rule = {"optimizer": sgd(0.03), "steps": 60}
        solver = ConjugateGradient(100)
        return imaml(net, loss=loss, strength=30.0, solver=solver, **rule)

    module = MetaModule(learner())
    output = module(episodes())
    assert (output.metrics["residual"] < 1e-6).all()
    grads = gradients(module, output.loss)
    some = ["b.bias"]
    made = MetaModule(learner()).eval()
    theta = {k: x.detach().clone() for k, x in module.theta().items()}
    for key in some:
        for i in range(theta[key].numel()):
            found = []
            for shift in (1e-5, -1e-5):
                moved = {k: x.clone() for k, x in theta.items()}
                moved[key].view(-1)[i] += shift
                made.load_state_dict(moved)
                found.append(float(made(episodes()).loss))
            slope = (found[0] - found[1]) / 2e-5
            assert float(grads[key].view(-1)[i]) == pytest.approx(slope, rel=1e-5)


# ---------------------------------------------------------------------------- refused


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        return 3 * ctx.saved_tensors[0] ** 2 * g


class Remembers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.last = 0.0

    def forward(self, h):
        self.last = float(h.mean().detach()) + 0.1 * self.last
        return h + self.last


REFUSED = {
    "once differentiable": (lambda: Cube.apply, "Cube is marked @once_differentiable"),
    "state in an attribute": (
        Remembers,
        "pure function of tensors, but .*last",
    ),
    "another shape": (
        lambda: nn.Linear(7, 4),
        "Between cannot be called",
    ),
}


@each_engine
@pytest.mark.parametrize(("between", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_right_is_refused_in_one_line(between, message, engine):
    net = seeded(lambda: Between(between()))
    for learner in (
        maml(net, loss=F.mse_loss, **RULE),
        meta_sgd(net, loss=F.mse_loss, steps=2),
    ):
        with pytest.raises(ValueError, match=rf"^.*{message}.*$"):
            MetaModule(learner, engine=engine)(episodes())


@each_engine
@pytest.mark.parametrize("algorithm", [fomaml, reptile], ids=lambda f: f.__name__)
def test_first_order_needs_no_second_derivative(algorithm, engine):
    def grads(between):
        net = seeded(lambda: Between(between))
        module = MetaModule(algorithm(net, loss=F.mse_loss, **RULE), engine=engine)
        return gradients(module, module(episodes()).loss)

    assert_close(grads(Cube.apply), grads(lambda h: h**3))


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.filterwarnings("ignore:ctc_loss")
@each_engine
def test_losses_without_a_second_derivative(engine):
    def ctc(outputs, targets):
        log_p = F.pad(outputs, (0, 1)).log_softmax(1)[None] * torch.ones(5, 1, 1)
        words = torch.ones(len(outputs), 2, dtype=torch.int64)
        sizes = torch.full((2, len(outputs)), 5)
        return F.ctc_loss(log_p, words, sizes[0], sizes[1] - 3)

    with pytest.raises(ValueError, match=r"^reverse mode needs .* fomaml or .*$"):
        MetaModule(maml(net_of("linear"), loss=ctc, **RULE), engine=engine)(episodes())
    module = MetaModule(fomaml(net_of("linear"), loss=ctc, **RULE), engine=engine)
    found = gradients(module, module(episodes()).loss)
    assert all(g.isfinite().all() for g in found.values())


@each_engine
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_call_within_modes_without_gradients(mode, engine):
    module = MetaModule(maml(net_of("linear"), loss=F.mse_loss, **RULE), engine=engine)
    expected = module(episodes()).losses.detach()
    with mode():
        assert_close(module(episodes()).losses, expected)
        assert_close(module.eval()(episodes()).losses, expected)
        assert module.adapt(episodes()).params["a.bias"].shape == (N, 4)
    assert_close(module.train()(episodes()).losses.detach(), expected)
