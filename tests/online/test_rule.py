"""Derivatives of a step: against finite differences of `torch.optim`'s own steps."""

from functools import partial

import pytest
import torch

import raymeta
from raymeta import online
from raymeta.online import coordinates
from raymeta.optim.muon import COEFFICIENTS, newton_schulz

#: Rule, its settings, and what it learns there.
CASES = {
    "sgd": (online.SGD, {"lr": 0.1}, ["lr"]),
    "sgd-decay": (
        online.SGD,
        {"lr": 0.1, "weight_decay": 0.2},
        ["lr", "weight_decay"],
    ),
    "momentum": (
        online.SGD,
        {"lr": 0.1, "momentum": 0.8, "dampening": 0.3, "weight_decay": 0.1},
        ["lr", "momentum", "dampening", "weight_decay"],
    ),
    "nesterov": (
        online.SGD,
        {"lr": 0.1, "momentum": 0.8, "nesterov": True, "weight_decay": 0.1},
        ["lr", "momentum", "weight_decay"],
    ),
    "adam": (
        online.Adam,
        {"lr": 0.05, "betas": (0.8, 0.9), "weight_decay": 0.3},
        ["lr", "weight_decay", "beta1", "beta2"],
    ),
    "amsgrad": (
        online.Adam,
        {"lr": 0.05, "betas": (0.8, 0.7), "weight_decay": 0.3, "amsgrad": True},
        ["lr", "weight_decay", "beta1", "beta2"],
    ),
    "maximize": (
        online.Adam,
        {"lr": 0.05, "betas": (0.8, 0.9), "weight_decay": 0.3, "maximize": True},
        ["lr", "weight_decay", "beta1", "beta2"],
    ),
    "adamw": (
        online.AdamW,
        {"lr": 0.05, "betas": (0.8, 0.9), "weight_decay": 0.3},
        ["lr", "weight_decay", "beta1", "beta2"],
    ),
    "muon": (online.Muon, {"lr": 0.05, "weight_decay": 0.3}, ["lr", "weight_decay"]),
}
STEPS = 4


def weights(dtype=torch.float64):
    g = torch.Generator().manual_seed(0)
    shapes = [(3, 4), (4, 2)]
    return [
        torch.nn.Parameter(torch.randn(s, generator=g, dtype=torch.float64).to(dtype))
        for s in shapes
    ]


def loss(ws, t):
    g = torch.Generator().manual_seed(100 + t)
    x = torch.randn(5, 3, generator=g, dtype=torch.float64).to(ws[0].dtype)
    return (torch.tanh(x @ ws[0]) @ ws[1] - x[:, :2].real).abs().square().mean()


def gradients(ws, t):
    for w in ws:
        w.grad = None
    loss(ws, t).backward()


def trained(make, ws, steps=STEPS):
    optimizer = make(ws)
    for t in range(steps):
        gradients(ws, t)
        optimizer.step()
    return optimizer


@torch.no_grad()
def found(optimizer):
    """dL/dλ by name, of the last step and the gradients there are."""
    total = {}
    for one in optimizer._found():
        c = one.entry.group["learned"][one.name]
        value = one.entry.values[one.name]
        slope = coordinates.slope(c, value)
        of_rate = value if one.name == "lr" else 1.0
        total[one.name] = total.get(one.name, 0.0) + float(one.value) * of_rate / slope
    return total


def with_setting(settings, name, value):
    if "beta" not in name:
        return {**settings, name: value}
    betas = list(settings.get("betas", (0.9, 0.999)))
    betas[int(name[-1]) - 1] = value
    return {**settings, "betas": tuple(betas)}


def of_torch(rule, settings, name, start, eps):
    """The loss after the last step, differentiated by a setting: central difference."""
    ends = []
    for sign in (1, -1):
        ws = weights()
        optimizer = trained(lambda ws: rule.RULE(ws, **settings), ws, STEPS - 1)
        for key, value in with_setting(settings, name, start + sign * eps).items():
            optimizer.param_groups[0][key] = value
        gradients(ws, STEPS - 1)
        optimizer.step()
        ends.append(float(loss(ws, STEPS).detach()))
    return (ends[0] - ends[1]) / (2 * eps)


@pytest.mark.parametrize("case", CASES)
def test_hypergradients_are_those_of_finite_differences(case):
    rule, settings, learn = CASES[case]
    ws = weights()
    optimizer = trained(lambda ws: rule(ws, learn=learn, hyper_lr=0.0, **settings), ws)
    gradients(ws, STEPS)
    hypergradients = found(optimizer)
    assert set(hypergradients) == set(learn)
    sign = -1 if settings.get("maximize") else 1
    for name, value in hypergradients.items():
        start = coordinates.named(optimizer.param_groups[0], name)
        truth = sign * of_torch(rule, settings, name, start, 1e-5)
        assert value == pytest.approx(truth, rel=2e-6, abs=1e-9), name


def test_the_derivative_of_newton_schulz_in_the_momentum():
    ns = partial(newton_schulz, coefficients=COEFFICIENTS, steps=5, eps=1e-7)
    g = torch.Generator().manual_seed(0)
    x, dx = (torch.randn(5, 3, generator=g, dtype=torch.float64) for _ in range(2))
    _, tangent = torch.func.jvp(ns, (x,), (dx,))
    truth = (ns(x + 1e-6 * dx) - ns(x - 1e-6 * dx)) / 2e-6
    torch.testing.assert_close(tangent, truth, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("nesterov", [True, False])
def test_muon_hands_its_momentum_through_the_iteration(nesterov):
    """In single precision, though the step itself is taken in half."""
    ws, rate = weights(), 0.05
    optimizer = online.Muon(
        ws, rate, momentum=0.6, nesterov=nesterov, learn="momentum", hyper_lr=0.0
    )
    mu = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)
    v = [torch.zeros_like(w) for w in ws]
    ns = partial(newton_schulz, coefficients=COEFFICIENTS, steps=5, eps=1e-7)
    for t in range(STEPS):
        gradients(ws, t)
        g = [w.grad for w in ws]
        v = [mu * a.detach() + (1 - mu) * b for a, b in zip(v, g, strict=True)]
        optimizer.step()
    gradients(ws, STEPS)
    x = [(1 - mu) * b + mu * a if nesterov else a for a, b in zip(v, g, strict=True)]
    step = [
        -rate * max(1, w.size(0) / w.size(1)) ** 0.5 * (w.grad * ns(a)).sum()
        for w, a in zip(ws, x, strict=True)
    ]
    truth = torch.autograd.grad(sum(step), mu)[0]
    assert found(optimizer)["momentum"] == pytest.approx(float(truth), rel=1e-3)


@pytest.mark.parametrize("per", ["group", "weight"])
def test_hypergradients_are_those_of_the_short_term_estimator(per):
    """On one run: the problem's, and the same in a loop of one's own."""
    problem = raymeta.descent(
        init_params=lambda h: {"a": weights()[0].data, "b": weights()[1].data},
        inner_loss=lambda w, h, batch: loss([w["a"], w["b"]], int(batch.index)),
        outer_loss=lambda w, h: loss([w["a"], w["b"]], 0),
        optimizer=lambda h: raymeta.optim.adamw(h["lr"], weight_decay=h["decay"]),
    )
    hparams = {
        "lr": torch.tensor(0.05, dtype=torch.float64),
        "decay": torch.tensor(0.3, dtype=torch.float64),
    }
    estimator = raymeta.hypergrad.ShortTerm(loss="next_batch")
    rollout = estimator.init(problem, hparams)
    ws = weights()
    optimizer = online.AdamW(
        ws,
        lr=0.05,
        weight_decay=0.3,
        learn=["lr", "weight_decay"],
        hyper_lr=0.0,
        per=per,
    )
    for t in range(STEPS):
        theirs, rollout = estimator.estimate(problem, hparams, rollout)
        gradients(ws, t)
        optimizer.step()
        gradients(ws, t + 1)
        ours = found(optimizer)
        assert ours["lr"] == pytest.approx(float(theirs.grads["lr"]), rel=1e-10)
        decay = float(theirs.grads["decay"])
        assert ours["weight_decay"] == pytest.approx(decay, rel=1e-10)


@pytest.mark.parametrize(
    ("rule", "settings"),
    [
        (online.SGD, {"momentum": 0.8}),
        (online.Adam, {"weight_decay": 0.3, "maximize": True}),
        (online.AdamW, {"weight_decay": 0.3}),
        (online.AdamW, {"weight_decay": 0.0}),
        (online.Muon, {"weight_decay": 0.3}),
    ],
)
def test_weights_with_rates_of_their_own_move_by_what_their_logarithms_do(
    rule, settings
):
    """∂w/∂log α is the step itself, whatever the weight's own α is."""
    ws = weights(torch.float32)
    optimizer = trained(
        lambda ws: rule(ws, lr=0.01, per="weight", hyper_lr=0.5, **settings), ws
    )
    before = [w.detach().clone() for w in ws]
    gradients(ws, STEPS)
    optimizer.step()
    assert all(optimizer.state[w]["own_lr"].std() > 0.05 for w in ws)
    gradients(ws, STEPS + 1)
    sign = -1 if settings.get("maximize") else 1
    with torch.no_grad():
        found_each = [one.each for one in optimizer._found()]
    for each, w, old in zip(found_each, ws, before, strict=True):
        truth = sign * w.grad * (w.detach() - old)
        torch.testing.assert_close(each, truth, rtol=2e-3, atol=1e-6)


def test_traces_sum_discounted_effects():
    ws, gamma, alpha = weights(), 0.9, 0.05
    optimizer = online.SGD(ws, lr=alpha, hyper_lr=0.0, trace=gamma)
    h = [torch.zeros_like(w) for w in ws]
    for t in range(STEPS):
        gradients(ws, t)
        optimizer.step()
        # h ← γ h + ∂w/∂u, u = log α.
        h = [gamma * a - alpha * w.grad for a, w in zip(h, ws, strict=True)]
    gradients(ws, STEPS)
    truth = sum(float((w.grad * a).sum()) for w, a in zip(ws, h, strict=True))
    assert found(optimizer)["lr"] == pytest.approx(truth / alpha, rel=1e-10)


def test_complex_weights_have_real_hypergradients():
    g = torch.Generator().manual_seed(0)
    start = torch.randn(4, 3, dtype=torch.complex128, generator=g)

    w = torch.nn.Parameter(start.clone())
    optimizer = online.Adam([w], lr=0.01, hyper_lr=0.0)
    (w.abs() ** 4 + w.real).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    (w.abs() ** 4 + w.real).sum().backward()

    def once(lr):
        w = torch.nn.Parameter(start.clone())
        optimizer = torch.optim.Adam([w], lr=lr)
        (w.abs() ** 4 + w.real).sum().backward()
        optimizer.step()
        return float((w.abs() ** 4 + w.real).sum().detach())

    truth = (once(0.01 + 1e-6) - once(0.01 - 1e-6)) / 2e-6
    assert found(optimizer)["lr"] == pytest.approx(truth, rel=1e-6)
