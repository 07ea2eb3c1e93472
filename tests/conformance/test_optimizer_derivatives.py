"""That every setting of every inner optimizer has its true derivative."""

import math

import pytest
import torch

from raymeta import optim
from raymeta.hypergrad import Forward, Reverse, hypergradient
from raymeta.optim import Optimizer
from raymeta.problem import descent
from raymeta.types import Hparams, Tensors
from tests.conformance.optimizers import (
    CASES,
    SINGULAR_AT_ZERO,
    as_tensors,
    differences,
    essential_case,
    every_case,
    every_form,
    formed,
    random_tensors,
    toy,
)
from tests.support.truth import largest_relative_error

pytestmark = pytest.mark.usefixtures("float64")


@every_case
@pytest.mark.parametrize("estimator", [Reverse(20), Forward(20)], ids=["rev", "fwd"])
def test_every_setting_has_its_true_hypergradient(name, estimator):
    case = CASES[name]
    problem = toy(lambda h: case.make(**h, **case.flags))
    hparams = as_tensors(case.settings)
    result = hypergradient(problem, hparams, estimator)
    truth = differences(problem, hparams, 20, 1e-5)
    assert largest_relative_error(result.grads, truth) < 1e-6


@essential_case
def test_true_derivative_of_a_setting_at_zero(name):
    case = CASES[name]
    for setting in case.settings.keys() - SINGULAR_AT_ZERO.get(name, set()):

        def optimizer(h: Hparams, setting: str = setting) -> Optimizer:
            return case.make(**{**case.settings, **h}, **case.flags)

        problem, hparams = toy(optimizer), {setting: torch.tensor(0.0)}
        result = hypergradient(problem, hparams, Reverse(4))
        errors = [
            largest_relative_error(result.grads, differences(problem, hparams, 4, h))
            for h in (1e-4, 1e-5)  # against rounding, against curvature
        ]
        assert min(errors) < 1e-6, setting


@every_form
@essential_case
def test_settings_of_every_form_are_differentiable(name, form):
    case = CASES[name]

    def optimizer(h: Hparams) -> Optimizer:
        def value(base: float, *shape: int) -> torch.Tensor:
            # Each element starts elsewhere and moves with c in directions of its own.
            size = math.prod(shape)
            angles = 20 * base + 1.7 * torch.arange(3.0 * size).reshape(3, *shape)
            u, v, w = (1 + torch.sin(angles)) / 2
            return base * (1 - 0.2 * u + h["c"][0] * v - h["c"][1] * w)

        return case.make(**formed(case, form, value), **case.flags)

    problem, hparams = toy(optimizer), {"c": torch.zeros(2)}
    truth = differences(problem, hparams, 8, 1e-2)
    result = hypergradient(problem, hparams, Reverse(8))
    assert largest_relative_error(result.grads, truth) < 1e-6


@every_case
def test_no_nan_at_zero_gradients(name):
    case = CASES[name]

    def outer_loss(params: Tensors, hparams: Hparams) -> torch.Tensor:
        return sum(w.square().sum() for w in params.values())

    problem = descent(
        init_params=lambda hparams: random_tensors(0) | {"zero": torch.zeros(2)},
        inner_loss=lambda params, hparams, batch: params["zero"].square().sum(),
        outer_loss=outer_loss,
        optimizer=lambda h: case.make(**h, **case.flags),
    )
    for weight_decay in (0.0, 0.1):
        hparams = as_tensors({**case.settings, "weight_decay": weight_decay})
        for estimator in (Reverse(3), Forward(3)):
            result = hypergradient(problem, hparams, estimator)
            values = [result.outer_loss, *result.grads.values()]
            assert all(bool(torch.isfinite(value)) for value in values)


def test_radam_is_differentiable_on_both_sides_of_its_rectification():
    # ρ is 5 for k = 8 at a β2 near 0.83.
    def optimizer(h: Hparams) -> Optimizer:
        return optim.radam(0.1, betas=(0.9, h["beta2"]), eps=1e-3)

    problem = toy(optimizer)
    for beta2 in (0.0, 0.3, 1 / 3, 0.6, 0.7, 0.8, 0.9, 0.99, 0.999):
        hparams = {"beta2": torch.tensor(beta2)}
        truth = differences(problem, hparams, 8, 1e-6)
        result = hypergradient(problem, hparams, Reverse(8))
        assert largest_relative_error(result.grads, truth) < 1e-6


def test_amsgrad_shares_the_derivative_of_a_tie():
    rule = optim.adam(0.1, betas=(0.0, 0.0), eps=0.0, amsgrad=True)
    g = torch.tensor([2.0], requires_grad=True)
    w = {"w": torch.zeros(1)}
    w, memory = rule.update({"w": g}, rule.init(w), w, torch.tensor(0))
    same = torch.tensor([2.0], requires_grad=True)
    _, memory = rule.update({"w": same}, memory, w, torch.tensor(1))
    grads = torch.autograd.grad(memory.slots["w"].v_max.sum(), [g, same])
    assert [float(x) for x in grads] == [2.0, 2.0]  # half of 2 g each


def test_lion_has_no_derivative_in_its_betas():
    case = CASES["lion"]
    problem = toy(lambda h: case.make(**h))
    result = hypergradient(problem, as_tensors(case.settings), Reverse(5))
    assert result.grads["beta1"] == result.grads["beta2"] == 0
    assert result.grads["lr"] != 0
    assert result.grads["weight_decay"] != 0
