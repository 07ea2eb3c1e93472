"""Each algorithm against the formula of its paper."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from raymeta.meta import (
    Episode,
    Examples,
    MetaModule,
    Siren,
    anil,
    boil,
    cavia,
    first_order,
    fomaml,
    functa,
    lslr,
    maml,
    meta_sgd,
    protonet,
    reptile,
)
from raymeta.optim import Schedule, sgd
from raymeta.testing.truth import largest_relative_error
from tests.support.learners import (
    CASES,
    agree,
    assert_close,
    descend,
    differences,
    fitted,
    gradients,
    hand_gradients,
    mlp,
    mse,
    seeded,
    sinusoids,
    siren,
    tasks,
)

pytestmark = pytest.mark.usefixtures("float64")

each_engine = pytest.mark.parametrize("engine", ["functional", "higher"])


# -------------------------------------------------------------------- first-order MAML


@each_engine
def test_fomaml_is_the_querys_gradient_at_the_adapted_weights(engine):
    net, episodes = mlp(), sinusoids()
    learner = fomaml(net, loss=F.mse_loss, optimizer=sgd(0.1), steps=3)
    module = MetaModule(learner, engine=engine)
    each = []
    for one in tasks(episodes):
        start = {k: p.detach().clone() for k, p in net.named_parameters()}
        phi = fitted(net, start, one.support, 3)
        phi = {k: p.detach().requires_grad_() for k, p in phi.items()}
        slopes = torch.autograd.grad(mse(phi, one.query, net), list(phi.values()))
        each.append(dict(zip(phi, slopes, strict=True)))
    truth = {k: torch.stack([g[k] for g in each]).mean(0) for k in each[0]}
    assert_close(gradients(module, module(episodes).loss), truth)
    exact = MetaModule(maml(net, loss=F.mse_loss, optimizer=sgd(0.1), steps=3))
    second = gradients(exact, exact(episodes).loss)
    assert largest_relative_error(truth, second) > 0.1


@each_engine
def test_first_order_keeps_the_derivative_in_the_learning_rate(engine):
    """One step: dE/dα = -<∇E(φ_1), ∇f(φ_0)>, the same as with second derivatives."""

    def learner(make):
        return make(
            mlp(),
            loss=F.mse_loss,
            optimizer=lambda theta: sgd(theta["lr"]),
            hyperparameters={"lr": torch.tensor(0.1)},
        )

    episodes = sinusoids()
    grads = []
    for make in (maml, fomaml):
        module = MetaModule(learner(make), engine=engine)
        grads.append(gradients(module, module(episodes).loss))
    assert_close(grads[0]["lr"], grads[1]["lr"])
    assert not torch.allclose(grads[0]["0.weight"], grads[1]["0.weight"], rtol=0.05)


@each_engine
def test_any_learner_can_be_first_order(engine):
    """CAVIA: the context is a constant, and the weights are learnt at it."""
    case = CASES["cavia"]
    module, episodes = MetaModule(first_order(case.make()), engine=engine), sinusoids()
    phi = module.adapt(episodes).params["context"].detach()

    def by_hand(theta, one):
        (i,) = [
            i
            for i, x in enumerate(tasks(episodes))
            if torch.equal(x.query[0], one.query[0])
        ]
        context = phi[i].expand(len(one.query.inputs), 2)
        inputs = torch.cat([one.query.inputs, context], 1)
        return F.mse_loss(functional_call(mlp(3), theta, inputs), one.query.targets)

    _, grads = hand_gradients(by_hand, module.theta(), episodes)
    assert_close(gradients(module, module(episodes).loss), grads)


def test_first_order_needs_a_gradient_to_cut():
    learner = CASES["maml"].make()

    def problem(task):
        return replace(learner.problem(task), step=lambda state, theta, batch: state)

    other = first_order(replace(learner, problem=problem))
    with pytest.raises(ValueError, match="learner whose problems' step is a `Descent`"):
        MetaModule(other)(sinusoids())


# ------------------------------------------------------------------- what is adapted


@each_engine
def test_anil_adapts_the_head_alone(engine):
    net = mlp()

    def by_hand(theta, one):
        head = {k: theta[k] for k in ("2.weight", "2.bias")}
        phi = descend(
            lambda p: mse({**theta, **p}, one.support, net), head, lambda k, t: 0.1, 3
        )
        return mse({**theta, **phi}, one.query, net)

    learner = anil(net, head="2", loss=F.mse_loss, optimizer=sgd(0.1), steps=3)
    agree(learner, by_hand, engine)
    adapted = MetaModule(learner, engine=engine).adapt(sinusoids()).params
    assert set(adapted) == {"2.weight", "2.bias"}
    several = anil(
        net, head=["2.bias", "0"], loss=F.mse_loss, optimizer=sgd(0.1), steps=3
    )
    adapted = MetaModule(several, engine=engine).adapt(sinusoids()).params
    assert set(adapted) == {"2.bias", "0.weight", "0.bias"}


@pytest.mark.parametrize("head", ["1", "head", "2.weights", ["2", "3"]])
def test_anil_needs_a_head(head):
    with pytest.raises(ValueError, match="anil needs a head with parameters that are"):
        anil(mlp(), head=head, loss=F.mse_loss)


@each_engine
def test_boil_leaves_the_head_alone(engine):
    net = mlp()

    def by_hand(theta, one):
        body = {k: theta[k] for k in ("0.weight", "0.bias")}
        phi = descend(
            lambda p: mse({**theta, **p}, one.support, net), body, lambda k, t: 0.1, 3
        )
        return mse({**theta, **phi}, one.query, net)

    learner = boil(net, head="2", loss=F.mse_loss, optimizer=sgd(0.1), steps=3)
    agree(learner, by_hand, engine)
    with pytest.raises(ValueError, match=r"boil needs weights besides the head to ada"):
        boil(net, head=["0", "2"], loss=F.mse_loss)
    with pytest.raises(ValueError, match="boil needs a head with parameters that are"):
        boil(net, head="1", loss=F.mse_loss)


def classes(labels, queries, seed=0):
    """Two tasks of points near three places, with these labels."""
    draw = torch.Generator().manual_seed(seed)
    parts = []
    for given in (labels, queries):
        y = torch.tensor([given, given[::-1]])
        x = torch.randn(*y.shape, 2, generator=draw) + y[..., None]
        parts.append(Examples.unweighted(x, y))
    return Episode(*parts)


def embedding():
    return seeded(lambda: nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 4)))


def prototypes_by_hand(theta, one, classes=3):
    net = embedding()
    f, q = (functional_call(net, theta, part.inputs) for part in one)
    of_class = [f[one.support.targets == k] for k in range(classes)]
    means = [x.mean(0) if len(x) else x.new_full((4,), 1e9) for x in of_class]
    scores = torch.stack([-((q - c) ** 2).sum(1) for c in means], 1)
    return F.cross_entropy(scores, one.query.targets)


@each_engine
@pytest.mark.parametrize("labels", [[0, 0, 1, 2, 2, 2], [0, 2, 2]])
def test_prototypes_are_the_means_of_the_classes_that_are_there(engine, labels):
    episodes = classes(labels, [0, 2, 2, 0])
    learner = protonet(embedding(), ways=3)
    agree(learner, prototypes_by_hand, engine, episodes)
    slopes = differences(learner, episodes)
    module = MetaModule(learner, engine=engine)
    output = module(episodes)
    assert_close(gradients(module, output.loss), slopes, rtol=1e-6, atol=1e-9)
    assert output.metrics["accuracy"].shape == (2,)
    net = module.adapt(episodes.support._replace(**first_of(episodes.support)))
    scores = net(episodes.query.inputs[0])
    loss = F.cross_entropy(scores, episodes.query.targets[0])
    assert_close(loss, output.losses[0].detach())


def first_of(examples):
    return {name: x[0] for name, x in examples._asdict().items()}


def test_prototypes_may_be_adapted_by_steps_that_follow():
    episodes = classes([0, 1, 2, 2], [0, 1, 2])
    learner = protonet(embedding(), ways=3, optimizer=sgd(0.1), steps=2)

    def by_hand(theta, one):
        f = functional_call(embedding(), theta, one.support.inputs)
        y = one.support.targets
        first = torch.stack([f[y == k].mean(0) for k in range(3)])

        def loss(params, part):
            z = functional_call(embedding(), theta, part.inputs)
            scores = -((z[:, None] - params["c"]) ** 2).sum(-1)
            return F.cross_entropy(scores, part.targets)

        phi = descend(
            lambda p: loss(p, one.support), {"c": first}, lambda name, t: 0.1, 2
        )
        return loss(phi, one.query)

    agree(learner, by_hand, episodes=episodes)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"ways": 0}, "protonet needs ways >= 1, but got ways=0"),
        ({"ways": 2.5}, "ways"),
        ({"ways": 3, "steps": -1}, "a learner needs steps >= 0, but got steps=-1"),
        ({"ways": 3, "loss": None}, "loss"),
    ],
)
def test_prototypes_need_classes(given, message):
    with pytest.raises(ValueError, match=message):
        protonet(embedding(), **given)


@each_engine
@pytest.mark.parametrize("join", ["input", "argument"])
def test_a_context_may_be_an_argument(engine, join):
    class WithContext(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp(3)

        def forward(self, x, phi):
            return self.net(torch.cat([x, phi.expand(len(x), 2)], 1))

    net = mlp(3) if join == "input" else WithContext()
    learner = cavia(net, loss=F.mse_loss, context=2, join=join, steps=2)
    module = MetaModule(learner, engine=engine)

    def by_hand(theta, one):
        weights = {k.removeprefix("net."): x for k, x in theta.items()}
        return CASES["cavia"].by_hand(weights, one)

    losses, grads = hand_gradients(by_hand, module.theta(), sinusoids())
    output = module(sinusoids())
    assert_close(output.losses.detach(), losses)
    assert_close(gradients(module, output.loss), grads)


@each_engine
def test_cavia_may_clamp_each_tasks_meta_gradient(engine):
    episodes, bound = sinusoids(), 0.05
    learner = cavia(mlp(3), loss=F.mse_loss, context=2, steps=2, clamp=bound)
    module = MetaModule(learner, engine=engine)
    each = []
    for one in tasks(episodes):
        alone = Episode(*(Examples(*(x[None] for x in part)) for part in one))
        _, grads = hand_gradients(CASES["cavia"].by_hand, module.theta(), alone)
        each.append({k: g.clamp(-bound, bound) for k, g in grads.items()})
    truth = {k: torch.stack([g[k] for g in each]) for k in each[0]}
    assert any(
        (g.abs() == bound).any() and (g.abs() < bound).any() for g in truth.values()
    )
    output = module(episodes)
    losses, _ = hand_gradients(CASES["cavia"].by_hand, module.theta(), episodes)
    assert_close(output.losses.detach(), losses)
    weights = torch.tensor([1.0, 2.0, -0.5])
    mixed = {k: torch.einsum("n,n...->...", weights, g) for k, g in truth.items()}
    assert_close(gradients(module, (weights * output.losses).sum()), mixed)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(cavia, context=0), "cavia needs context >= 1, but got context=0"),
        (partial(cavia, context=1, join="inputs"), "'input'"),
        (partial(reptile, batch_size=0), "reptile needs batch_size >= 1"),
    ],
)
def test_settings_that_make_no_sense(make, message):
    with pytest.raises(ValueError, match=message):
        make(mlp(), loss=F.mse_loss)


# --------------------------------------------------------------------- learning rates


def with_rates(rate):
    """MAML by hand with rates of θ: (θ, name, t) -> rate."""

    def by_hand(theta, one):
        net = mlp()
        weights = {k: theta[k] for k in dict(net.named_parameters())}
        phi = descend(
            lambda p: mse(p, one.support, net),
            weights,
            lambda name, t: rate(theta, name, t),
            3,
        )
        return mse(phi, one.query, net)

    return by_hand


@each_engine
def test_meta_sgd_learns_a_rate_for_each_weight(engine):
    learner = meta_sgd(mlp(), loss=F.mse_loss, lr=0.07, steps=3)
    assert learner.meta["lr.0.weight"].shape == (6, 1)
    assert all((x == 0.07).all() for k, x in learner.meta.items() if k[:3] == "lr.")
    by_hand = with_rates(lambda theta, name, t: theta[f"lr.{name}"])
    agree(learner, by_hand, engine)
    # Any sign.
    learner.meta["lr.2.bias"].fill_(-0.02)
    agree(learner, by_hand, engine)


@each_engine
def test_lslr_learns_a_rate_for_each_layer_and_step(engine):
    learner = lslr(mlp(), loss=F.mse_loss, lr=0.07, steps=3)
    rates = {k: x for k, x in learner.meta.items() if k.startswith("lr.")}
    assert {k: x.tolist() for k, x in rates.items()} == {
        "lr.0": [0.07] * 3,
        "lr.2": [0.07] * 3,
    }
    learner.meta["lr.0"].copy_(torch.tensor([0.1, 0.02, 0.05]))
    agree(learner, with_rates(lambda theta, name, t: theta[f"lr.{name[0]}"][t]), engine)


@each_engine
def test_steps_beyond_those_of_lslr_have_its_last_rate(engine):
    module = MetaModule(lslr(mlp(), loss=F.mse_loss, steps=2), engine=engine)
    with torch.no_grad():
        module.theta()["lr.0"].copy_(torch.tensor([0.1, 0.02]))
    longer = MetaModule(lslr(mlp(), loss=F.mse_loss, steps=4), engine=engine)
    with torch.no_grad():
        longer.theta()["lr.0"].copy_(torch.tensor([0.1, 0.02, 0.02, 0.02]))
    assert_close(module(sinusoids(), steps=4), longer(sinusoids()))


@each_engine
def test_a_schedule_may_be_learnt(engine):
    learner = maml(
        mlp(),
        loss=F.mse_loss,
        optimizer=lambda theta: sgd(Schedule(theta["lr"]), momentum=theta["momentum"]),
        hyperparameters={
            "lr": torch.tensor([0.1, 0.02, 0.05]),
            "momentum": torch.tensor(0.4),
        },
        steps=3,
    )
    module = MetaModule(learner, engine=engine)
    grads = gradients(module, module(sinusoids()).loss)
    assert largest_relative_error(grads, differences(learner, sinusoids())) < 1e-6


def test_hyperparameters_need_names_and_derivatives():
    def learner(**hyperparameters):
        return maml(mlp(), loss=F.mse_loss, hyperparameters=hyperparameters)

    with pytest.raises(
        ValueError, match=r"'0.bias' is a weight of the module: rename it"
    ):
        learner(**{"0.bias": torch.tensor(1.0)})
    with pytest.raises(ValueError, match=r"'lr' is 0.1: pass torch.tensor\(0.1\)"):
        learner(lr=0.1)
    with pytest.raises(ValueError, match="must be a tensor of floats"):
        learner(lr=torch.tensor(1))


# ------------------------------------------------------------------------------- functa


@each_engine
def test_functa_may_have_a_fixed_rate(engine):
    case = CASES["functa"]
    learner = functa(siren(), lr=0.5, learn_lr=False)
    assert "lr" not in learner.meta

    def by_hand(theta, one):
        return case.by_hand({**theta, "lr": torch.tensor(0.5)}, one)

    agree(learner, by_hand, engine, case.episodes())


def test_siren_is_its_formula():
    net = siren()
    x, phi = torch.rand(7, 2), torch.randn(4)
    shifts = net.modulation.weight @ phi
    h = torch.sin(3.0 * (x @ net.hidden[0].weight.T + net.hidden[0].bias + shifts[:5]))
    h = torch.sin(3.0 * (h @ net.hidden[1].weight.T + net.hidden[1].bias + shifts[5:]))
    assert_close(net(x, phi), h @ net.out.weight.T + net.out.bias)
    with pytest.raises(ValueError, match=r"Siren needs inputs, outputs, .* >= 1"):
        Siren(2, 1, depth=0)


def test_sirens_first_weights_are_those_of_the_paper():
    net = seeded(lambda: Siren(3, 1, width=200, depth=2, frequency=7.0))
    first, second = (layer.weight.abs().max().item() for layer in net.hidden)
    assert first == pytest.approx(1 / 3, rel=0.01)
    assert second == pytest.approx((6 / 200) ** 0.5 / 7, rel=0.01)
