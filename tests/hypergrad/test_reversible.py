"""Runs that are retraced bit for bit, and reverse mode along them."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from raymeta.hypergrad import Checkpointed, Reverse, Reversible, hypergradient
from raymeta.hypergrad.reversible_run import RetracedRun
from raymeta.modules import module_problem
from raymeta.optim import (
    Optimizer,
    Schedule,
    Setting,
    adam,
    clip_by_norm,
    clip_by_value,
    sgd,
)
from raymeta.problem import BilevelProblem, TrainState, descent
from raymeta.testing.problems import mlp, sgd_everything
from raymeta.testing.truth import largest_relative_error, run_differences
from raymeta.types import Hparams, Tensors
from tests.support.memory import peak_bytes

pytestmark = pytest.mark.usefixtures("float64")


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(2)


# Runs


def rows(value: float, *shape: int) -> Tensor:
    """Numbers around a value."""
    return value * (0.9 + 0.2 * torch.rand(*shape, generator=generator()))


#: name -> (learning rate, momentum).
SETTINGS: dict[str, tuple[Setting, Setting]] = {
    "0.5": (0.1, 0.5),
    "0.9": (0.1, 0.9),
    "0.98": (0.02, 0.98),
    "steps": (rows(0.1, 100), rows(0.85, 100)),
    "layers": ({"0": 0.1, "2": 0.05}, {"0": 0.5, "2": 0.9}),
    "layers and steps": (
        {"0": Schedule(rows(0.1, 100)), "2": 0.1},
        {"0": Schedule(rows(0.8, 100)), "2": Schedule(rows(0.5, 100))},
    ),
    "elements": (
        {"0.weight": rows(0.1, 8, 1), "0.bias": 0.2, "2": 0.1},
        {"0": 0.3, "2.weight": rows(0.8, 3, 8), "2.bias": Schedule(rows(0.5, 9, 3))},
    ),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_steps_are_retraced_bit_for_bit(name):
    lr, momentum = SETTINGS[name]
    steps = 1000 if isinstance(momentum, float) else 100
    rule = sgd(lr, momentum=momentum, dampening=0.1, weight_decay=0.01)
    problem = mlp(lambda h: rule)
    s_0 = problem.init({})
    assert rule.heavy_ball is not None
    start = {k: 0.1 * rows(1.0, *w.shape) for k, w in s_0.params.items()}
    s_0 = s_0._replace(memory=rule.heavy_ball.memory(start, torch.tensor(0)))
    run = RetracedRun(problem, {}, s_0, 50)
    w_0, v_0 = run.w, run.v
    for t in range(steps):
        run.forward(t)
    stored = run.stored(steps)
    for t in reversed(range(steps)):
        before, _ = run.backward(t)
    assert torch.equal(run.w, w_0)
    assert torch.equal(run.v, v_0)
    run.require_start()
    for k, w in s_0.params.items():
        torch.testing.assert_close(before.params[k], w, rtol=0, atol=2**-51)
    if isinstance(momentum, float):
        assert stored.bits == pytest.approx(math.log2(1 / momentum), rel=0.03)
        assert stored.ratio == pytest.approx(64 / stored.bits)


def test_floats_would_not_come_back():
    # Why all this: the same reversal in float64.
    problem = mlp(lambda h: sgd(0.1, momentum=0.5))
    state = problem.init({})
    w_0, velocity = state.params["0.weight"], []
    for t in range(100):
        velocity.append({k: slot.velocity for k, slot in state.memory.slots.items()})
        state = problem.step(state, {}, problem.batch(t))
    w = state.params
    v = {k: slot.velocity for k, slot in state.memory.slots.items()}
    for t in reversed(range(100)):
        w = {k: w[k] + 0.1 * v[k] for k in w}
        g, _ = problem.step.gradient(w, {}, {}, problem.batch(t))
        v = {k: (v[k] - g[k]) / 0.5 for k in w}
    assert not torch.allclose(w["0.weight"], w_0, atol=1.0)


@pytest.mark.parametrize(
    "clip",
    [
        lambda rule: rule,
        lambda rule: clip_by_norm(rule, 0.5),
        lambda rule: clip_by_value(rule, 0.1),
    ],
    ids=["sgd", "by-norm", "by-value"],
)
def test_an_update_is_what_its_heavy_ball_says(clip):
    settings = {"dampening": 0.3, "weight_decay": 0.1, "maximize": True}
    rule = clip(sgd({"a": 0.1, "b": 0.2}, momentum=rows(0.8, 9), **settings))
    ball, random = rule.heavy_ball, generator()

    def tensors() -> Tensors:
        return {name: torch.randn(3, generator=random) for name in ("a", "b")}

    for t in map(torch.tensor, (0, 5)):
        w, v, g = tensors(), tensors(), tensors()
        new_w, memory = rule.update(g, ball.memory(v, t), w, t)
        new_v = ball.velocity(memory)
        still = ball.memory({name: torch.zeros(3) for name in w}, t)
        f = ball.velocity(rule.update(g, still, w, t)[1])
        for name in w:
            alpha, mu = ball.rates(t)(name)
            torch.testing.assert_close(new_v[name], mu * v[name] + f[name])
            torch.testing.assert_close(new_w[name], w[name] - alpha * new_v[name])


# Hypergradients


@pytest.mark.parametrize("steps", [20, 100])
def test_agrees_with_reverse_at_the_default_precision(steps):
    problem, hparams = sgd_everything()
    result = hypergradient(problem, hparams, Reversible(steps))
    truth = hypergradient(problem, hparams, Reverse(steps))
    assert largest_relative_error(result.grads, truth.grads) < 1e-8
    torch.testing.assert_close(result.outer_loss, truth.outer_loss, rtol=1e-9, atol=0)


def scheduled(h: Hparams) -> Optimizer:
    """A learning rate per layer and step, a momentum per step or element."""
    lr = {"0": Schedule(h["lr"][0]), "2": Schedule(h["lr"][1])}
    momentum = {"0": Schedule(h["momentum"]), "2.bias": h["own"], "2": h["own"].mean()}
    return sgd(lr, momentum=momentum, weight_decay={"0": h["decay"], "2": 0.0})


def test_schedules_by_layer_step_and_element():
    problem = mlp(scheduled)
    hparams = {
        "lr": rows(0.2, 2, 12),
        "momentum": torch.linspace(0.0, 1.0, 12),
        "own": torch.tensor([0.0, 0.3, 0.95]),
        "decay": torch.tensor(0.02),
    }
    result = hypergradient(problem, hparams, Reversible(12))
    truth = hypergradient(problem, hparams, Reverse(12))
    assert largest_relative_error(result.grads, truth.grads) < 1e-9
    differences = run_differences(problem, hparams, 12)
    assert largest_relative_error(result.grads, differences) < 1e-6


@pytest.mark.parametrize("maximize", [False, True])
def test_whatever_makes_the_velocity_s_kick_is_differentiated(maximize):
    def optimizer(h: Hparams) -> Optimizer:
        rule = sgd(
            h["lr"], momentum=h["mu"].exp(), dampening=h["tau"], maximize=maximize
        )
        return clip_by_norm(rule, h["bound"])

    values = {"lr": 0.1, "mu": -0.2, "tau": 0.3, "bound": 0.4}
    hparams = {name: torch.tensor(value) for name, value in values.items()}
    result = hypergradient(mlp(optimizer), hparams, Reversible(20))
    truth = hypergradient(mlp(optimizer), hparams, Reverse(20))
    assert largest_relative_error(result.grads, truth.grads) < 1e-9


def test_the_outer_loss_may_depend_on_the_velocity():
    problem, hparams = sgd_everything()

    def outer_loss(state: TrainState, hparams: Hparams) -> Tensor:
        v = state.memory.slots["2.bias"].velocity
        return hparams["lr"] * (v.square().sum() + state.params["2.bias"].sum())

    problem = replace(problem, outer_loss=outer_loss)
    result = hypergradient(problem, hparams, Reversible(20))
    truth = hypergradient(problem, hparams, Reverse(20))
    assert largest_relative_error(result.grads, truth.grads) < 1e-8


def module(net: nn.Module, dtype: torch.dtype = torch.float64) -> BilevelProblem:
    random = generator()
    data = TensorDataset(
        torch.randn(40, 5, generator=random, dtype=dtype),
        torch.randint(3, (40,), generator=random),
    )
    return module_problem(
        net,
        loss=F.cross_entropy,
        train=data,
        val=data,
        batch_size=16,
        optimizer=lambda h: sgd(h["lr"], momentum=h["momentum"]),
    )


RATES = {"lr": 0.1, "momentum": 0.8}


def rates(dtype: torch.dtype = torch.float64) -> Hparams:
    return {name: torch.tensor(value, dtype=dtype) for name, value in RATES.items()}


def test_a_float32_module_with_dropout():
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(5, 9), nn.Dropout(0.3), nn.ReLU(), nn.Linear(9, 3))
    problem, hparams = module(net.float(), torch.float32), rates(torch.float32)
    estimator = Reversible(30)
    start = estimator.init(problem, hparams)
    result, rollout = estimator.estimate(problem, hparams, start)
    truth, expected = Reverse(30).estimate(problem, hparams, start)
    assert largest_relative_error(result.grads, truth.grads) < 1e-4
    for name, w in expected.state.params.items():
        assert rollout.state.params[name].dtype == torch.float32
        torch.testing.assert_close(rollout.state.params[name], w)
    assert rollout.carry.ratio == pytest.approx(32 / rollout.carry.bits)
    assert rollout.step == 30


# Memory


def test_memory_does_not_grow_with_the_run_but_for_the_buffer():
    problem, hparams = sgd_everything()
    hparams["momentum"] = torch.tensor(0.9)
    whole = peak_bytes(lambda: hypergradient(problem, hparams, Reverse(200)))
    ours = peak_bytes(lambda: hypergradient(problem, hparams, Reversible(200)))
    short = peak_bytes(lambda: hypergradient(problem, hparams, Reversible(20)))
    assert 20 * ours < whole
    words = math.ceil(200 * math.log2(1 / 0.9) / 32)
    weights = sum(p.numel() for p in problem.init(hparams).params.values())
    assert ours - short <= 4 * words * weights


# Errors


@pytest.mark.parametrize(
    "rule",
    [
        sgd(0.1),
        sgd(0.1, momentum=0.0),
        sgd(0.1, momentum={"0": 0.9, "2": 0.0}),
        sgd(0.1, momentum=0.9, nesterov=True),
        adam(0.1),
        clip_by_norm(adam(0.1), 1.0),
    ],
)
def test_an_optimizer_without_inverse_is_refused_before_the_first_step(rule):
    problem, hparams = sgd_everything()
    problem = mlp(lambda h: rule)
    with pytest.raises(ValueError, match=r"sgd with momentum .* use Checkpointed"):
        Reversible(3).init(problem, hparams)
    hypergradient(problem, {"init_scale": torch.tensor(1.0)}, Checkpointed(3))


def test_a_step_that_is_not_a_descent_is_refused_before_the_first_step():
    problem, hparams = sgd_everything()
    opaque = replace(problem, step=lambda s, h, b: problem.step(s, h, b))
    with pytest.raises(ValueError, match="whose step is a `Descent`"):
        Reversible(3).init(opaque, hparams)


@pytest.mark.parametrize(("bits", "lr"), [(58, 0.1), (50, 1e5), (20, 1e30)])
def test_leaving_the_range_is_an_error_that_says_what_helps(bits, lr):
    problem, _ = sgd_everything()
    problem = mlp(lambda h: sgd(h["lr"], momentum=h["momentum"]))
    hparams = rates() | {"lr": torch.tensor(lr), "init_scale": torch.tensor(60.0)}
    limit = f"{2.0 ** (62 - bits):g}".replace("+", r"\+")
    match = rf"fractional_bits={bits} holds numbers below {limit}, but the largest "
    with pytest.raises(OverflowError, match=match + ".*fewer fractional_bits"):
        hypergradient(problem, hparams, Reversible(100, fractional_bits=bits))


def test_nan_is_an_error():
    problem = mlp(lambda h: sgd(h["lr"] * math.nan, momentum=h["momentum"]))
    hparams = rates()
    with pytest.raises(OverflowError, match="the largest update is nan at step 0"):
        hypergradient(problem, hparams, Reversible(3))


def test_a_momentum_above_one_is_an_error():
    problem, hparams = sgd_everything()
    hparams["momentum"] = torch.tensor(1.1)
    with pytest.raises(ValueError, match=r"momentum in \[0, 1\], but got"):
        hypergradient(problem, hparams, Reversible(3))


@pytest.mark.parametrize("bits", [-1, 62])
def test_fractional_bits_out_of_range_are_refused(bits):
    with pytest.raises(ValueError, match=rf"in \[0, 62\), but got {bits}"):
        Reversible(3, fractional_bits=bits)


def test_buffers_that_change_are_named_and_others_are_no_hindrance():
    net = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    with pytest.raises(ValueError, match=r"buffer '1.running_mean' changes"):
        hypergradient(module(net), rates(), Reversible(3))

    class Scaled(nn.Linear):
        def __init__(self) -> None:
            super().__init__(5, 3)
            self.register_buffer("scale", torch.tensor([1.0, 2.0, 3.0]))

        def forward(self, x: Tensor) -> Tensor:
            return self.scale * super().forward(x)

    result = hypergradient(module(Scaled()), rates(), Reversible(10))
    truth = hypergradient(module(Scaled()), rates(), Reverse(10))
    assert result.grads.keys() == truth.grads.keys()


def test_a_gradient_that_is_not_reproducible_is_an_error():
    random = generator()
    problem = descent(
        init_params=lambda h: {"w": torch.ones(3)},
        inner_loss=lambda params, h, batch: (
            params["w"] * torch.randn(3, generator=random)
        ).sum(),
        outer_loss=lambda params, h: params["w"].sum(),
        optimizer=lambda h: sgd(h["lr"], momentum=h["momentum"]),
    )
    with pytest.raises(RuntimeError, match=r"did not come back .*use_deterministic"):
        hypergradient(problem, rates(), Reversible(5))


def test_complex_weights_are_refused():
    problem = descent(
        init_params=lambda h: {"w": torch.ones(3, dtype=torch.complex128)},
        inner_loss=lambda params, h, batch: params["w"].abs().sum(),
        outer_loss=lambda params, h: params["w"].abs().sum(),
        optimizer=lambda h: sgd(h["lr"], momentum=h["momentum"]),
    )
    with pytest.raises(ValueError, match="real weights"):
        hypergradient(problem, rates(), Reversible(2))
