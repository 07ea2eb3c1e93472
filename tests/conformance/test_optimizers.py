"""What every inner optimizer must satisfy; a new one is one entry in CASES."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch

from raymeta.hypergrad import Forward, Reverse, hypergradient
from raymeta.optim import Optimizer, Schedule, adam, sgd
from raymeta.types import Hparams
from tests.problems import mlp
from tests.truth import largest_relative_error, run_differences

pytestmark = pytest.mark.usefixtures("float64")


class Case(NamedTuple):
    """An optimizer with non-default settings, and torch's own with the same."""

    make: Callable[..., Optimizer]
    settings: dict[str, Any]
    flags: dict[str, Any]
    reference: Callable[..., torch.optim.Optimizer]


def _adam(lr: Any, beta1: Any, beta2: Any, **rest: Any) -> Optimizer:
    return adam(lr, betas=(beta1, beta2), **rest)


def _torch_adam(params: Any, beta1: float, beta2: float, **rest: Any):
    return torch.optim.Adam(params, betas=(beta1, beta2), **rest)


_SGD = {"lr": 0.2, "momentum": 0.8, "weight_decay": 0.03}
_ADAM = {"lr": 0.05, "beta1": 0.8, "beta2": 0.95, "eps": 1e-3, "weight_decay": 0.02}
CASES = {
    "sgd": Case(sgd, _SGD | {"dampening": 0.3}, {}, torch.optim.SGD),
    "sgd-nesterov": Case(sgd, _SGD, {"nesterov": True}, torch.optim.SGD),
    "sgd-maximize": Case(sgd, _SGD, {"maximize": True}, torch.optim.SGD),
    "adam": Case(_adam, _ADAM, {}, _torch_adam),
    "adam-maximize": Case(_adam, _ADAM, {"maximize": True}, _torch_adam),
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def as_tensors(settings: dict[str, float]) -> Hparams:
    return {name: torch.tensor(value) for name, value in settings.items()}


@cases
@pytest.mark.parametrize("plain", [True, False], ids=["numbers", "tensors"])
def test_follows_torch_optim_step_by_step(case, plain):
    generator = torch.Generator().manual_seed(0)
    start = {k: torch.randn(4, 3, generator=generator) for k in ("a", "b")}
    settings = case.settings if plain else as_tensors(case.settings)
    rule = case.make(**settings, **case.flags)
    params, memory = dict(start), rule.init(start)
    theirs = {k: torch.nn.Parameter(v.clone()) for k, v in start.items()}
    reference = case.reference(theirs.values(), **case.settings, **case.flags)
    for t in range(10):
        grads = {k: torch.randn(4, 3, generator=generator) for k in start}
        params, memory = rule.update(grads, memory, params, torch.tensor(t))
        for name, p in theirs.items():
            p.grad = grads[name].clone()
        reference.step()
        for name, p in theirs.items():
            torch.testing.assert_close(params[name], p.detach(), rtol=1e-12, atol=1e-13)


@cases
@pytest.mark.parametrize("estimator", [Reverse(20), Forward(20)], ids=["rev", "fwd"])
def test_every_setting_has_its_true_hypergradient(case, estimator):
    problem = mlp(lambda h: case.make(**h, **case.flags))
    hparams = as_tensors(case.settings)
    result = hypergradient(problem, hparams, estimator)
    truth = run_differences(problem, hparams, 20)
    assert largest_relative_error(result.grads, truth) < 1e-6


@cases
def test_settings_by_parameter_and_by_step(case):
    names = [("0", "2"), ("0.weight", "0.bias", "2")]
    for groups in names:
        settings = {
            name: torch.full((len(groups), 6), value)
            * torch.linspace(0.9, 1.02, 6 * len(groups)).reshape(len(groups), 6)
            for name, value in case.settings.items()
        }

        def make(h: Hparams, groups: Any = groups) -> Optimizer:
            rows = {
                name: dict(zip(groups, map(Schedule, value), strict=True))
                for name, value in h.items()
            }
            return case.make(**rows, **case.flags)

        problem = mlp(make)
        result = hypergradient(problem, settings, Reverse(6))
        truth = run_differences(problem, settings, 6)
        assert largest_relative_error(result.grads, truth) < 1e-6


@cases
def test_a_constant_schedule_equals_the_number(case):
    constant = {name: torch.full((5,), v) for name, v in case.settings.items()}
    scheduled = mlp(lambda h: case.make(**h, **case.flags))
    state = scheduled.init(constant)
    fixed = mlp(lambda h: case.make(**case.settings, **case.flags))
    other = fixed.init({})
    for t in range(7):  # two steps past the end of the schedule
        state = scheduled.step(state, constant, scheduled.batch(t))
        other = fixed.step(other, {}, fixed.batch(t))
    for name, p in other.params.items():
        torch.testing.assert_close(state.params[name], p, rtol=1e-13, atol=1e-14)


@cases
def test_no_nan_at_zero_gradients(case):
    hparams = as_tensors(case.settings)

    def outer(hparams: Hparams) -> torch.Tensor:
        rule = case.make(**hparams, **case.flags)
        params = {"w": torch.ones(3)}
        memory = rule.init(params)
        for t in range(3):
            grads = {"w": torch.zeros(3)}
            params, memory = rule.update(grads, memory, params, torch.tensor(t))
        return params["w"].sum()

    leaves = {k: v.requires_grad_() for k, v in hparams.items()}
    grads = torch.autograd.grad(outer(leaves), list(leaves.values()), allow_unused=True)
    assert all(g is None or bool(torch.isfinite(g)) for g in grads)


@cases
def test_a_parameter_without_a_setting_is_named(case):
    rule = case.make(**{**case.settings, "lr": {"other": 0.1}}, **case.flags)
    params = {"layer.weight": torch.ones(2)}
    with pytest.raises(ValueError, match=r"'layer.weight'.*got \['other'\]"):
        rule.update(params, rule.init(params), params, torch.tensor(0))


@pytest.mark.parametrize("name", ["lr", "weight_decay"])
@cases
def test_negative_numbers_are_refused(case, name):
    with pytest.raises(ValueError, match=rf"needs {name} >= 0.0, but got -0.1"):
        case.make(**{**case.settings, name: -0.1}, **case.flags)


def test_nesterov_needs_momentum_without_dampening():
    with pytest.raises(ValueError, match="momentum and no dampening"):
        sgd(0.1, nesterov=True)
    with pytest.raises(ValueError, match="momentum and no dampening"):
        sgd(0.1, momentum=0.9, dampening=0.1, nesterov=True)


def test_adam_refuses_a_beta_of_one():
    with pytest.raises(ValueError, match=r"beta2 in \[0.0, 1.0\), but got 1.0"):
        adam(0.1, betas=(0.9, 1.0))


def test_a_matrix_for_all_parameters_is_refused():
    rule = sgd(torch.ones(2, 2))
    with pytest.raises(ValueError, match=r"shape \(\) or \(T,\), but got \(2, 2\)"):
        rule.update({"w": torch.ones(2)}, (), {"w": torch.ones(2)}, torch.tensor(0))


def test_sgd_without_momentum_keeps_no_memory():
    assert sgd(0.1).init({"w": torch.ones(2)}) == ()
