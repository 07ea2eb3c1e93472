"""Each algorithm against the formula of its paper."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn
from torch.func import functional_call, hessian
from torch.nn import functional as F

from raymeta.data import DigitBatches
from raymeta.hypergrad import ConjugateGradient
from raymeta.meta import (
    Episode,
    Examples,
    MetaModule,
    RandomWeights,
    Siren,
    anil,
    cavia,
    distillation,
    first_order,
    fomaml,
    functa,
    imaml,
    learned_dataset,
    lslr,
    maml,
    meta_sgd,
    reptile,
)
from raymeta.optim import Schedule, sgd
from raymeta.testing.truth import largest_relative_error
from tests.support.learners import (
    CASES,
    assert_close,
    descend,
    differences,
    gradients,
    hand_gradients,
    mlp,
    seeded,
    sinusoids,
    siren,
    tasks,
)

pytestmark = pytest.mark.usefixtures("float64")

each_engine = pytest.mark.parametrize("engine", ["functional", "higher"])


def mse(params, data: Examples, net: nn.Module):
    return F.mse_loss(functional_call(net, params, data.inputs), data.targets)


def fitted(net, start, data: Examples, steps: int):
    """Weights after gradient descent at a rate of 0.1."""
    return descend(lambda p: mse(p, data, net), start, lambda name, t: 0.1, steps)


def agree(learner, by_hand, engine="functional", episodes=None) -> None:
    """The losses and meta-gradients of a learner are those of a function of θ."""
    episodes = sinusoids() if episodes is None else episodes
    module = MetaModule(learner, engine=engine)
    losses, grads = hand_gradients(by_hand, module.theta(), episodes)
    output = module(episodes)
    assert_close(output.losses.detach(), losses)
    assert_close(gradients(module, output.loss), grads)


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


# -------------------------------------------------------------------------------- iMAML


def linear(inputs: int = 3) -> nn.Module:
    return seeded(lambda: nn.Linear(inputs, 1))


def regressions(count: int = 3, n: int = 8) -> Episode:
    generator = torch.Generator().manual_seed(0)

    def examples() -> Examples:
        x = torch.randn(count, n, 3, generator=generator)
        y = torch.randn(count, n, 1, generator=generator)
        return Examples.unweighted(x, y)

    return Episode(examples(), examples())


def test_imaml_is_its_closed_form_on_linear_regression():
    """L is quadratic: φ* = θ - (H + λ)⁻¹ ∇L(θ), dE/dθ = λ (H + λ)⁻¹ ∇E(φ*)."""
    net, episodes, strength = linear(), regressions(), 0.7
    learner = imaml(
        net,
        loss=F.mse_loss,
        strength=strength,
        optimizer=sgd(0.1),
        steps=400,
        solver=ConjugateGradient(),
    )
    module = MetaModule(learner)
    theta = torch.cat([p.detach().flatten() for p in net.parameters()])

    def value(w, data):
        return F.mse_loss(data.inputs @ w[:3, None] + w[3], data.targets)

    losses, grads = [], []
    for one in tasks(episodes):
        matrix = hessian(value)(theta, one.support)
        matrix = matrix + strength * torch.eye(4)
        slope = torch.func.grad(value)(theta, one.support)
        phi = theta - torch.linalg.solve(matrix, slope)
        losses.append(value(phi, one.query))
        outer = torch.func.grad(value)(phi, one.query)
        grads.append(strength * torch.linalg.solve(matrix, outer))
    output = module(episodes)
    assert_close(output.losses.detach(), torch.stack(losses))
    found = gradients(module, output.loss)
    flat = torch.cat([g.flatten() for g in found.values()])
    assert_close(flat, torch.stack(grads).mean(0), rtol=1e-8)
    module.eval()
    assert_close(module(episodes).losses, torch.stack(losses))


def test_imaml_solves_as_far_as_it_is_told():
    """One conjugate gradient: v = (bᵀb / bᵀAb) b."""
    net, episodes, strength = linear(), regressions(1), 0.7
    solver = ConjugateGradient(1, accept=math.inf)
    learner = imaml(
        net, loss=F.mse_loss, strength=strength, optimizer=sgd(0.1), solver=solver
    )
    module = MetaModule(learner)
    phi = module.adapt(episodes).params
    phi = torch.cat([phi["weight"].flatten(), phi["bias"].flatten()]).detach()
    (one,) = tasks(episodes)

    def value(w, data):
        return F.mse_loss(data.inputs @ w[:3, None] + w[3], data.targets)

    b = torch.func.grad(value)(phi, one.query)
    matrix = hessian(value)(phi, one.support) + strength * torch.eye(4)
    truth = strength * (b @ b) / (b @ matrix @ b) * b
    output = module(episodes)
    found = gradients(module, output.loss)
    assert_close(torch.cat([g.flatten() for g in found.values()]), truth)
    rest = b - matrix @ truth / strength
    assert_close(output.metrics["residual"], (rest.norm() / b.norm())[None])


@pytest.mark.parametrize("strength", [0.0, -1.0, float("nan")])
def test_imaml_needs_a_pull(strength):
    with pytest.raises(ValueError, match="imaml needs strength > 0"):
        imaml(linear(), loss=F.mse_loss, strength=strength)


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
