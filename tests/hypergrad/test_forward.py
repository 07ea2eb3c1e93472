"""Forward mode: chunks of tangents, room for them, and what it owes to operators."""

from collections.abc import Callable
from dataclasses import replace
from typing import NoReturn

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from raymeta import module_problem, optim
from raymeta.compile import recurrence
from raymeta.hypergrad import Forward, Reverse, dual_numbers, hypergradient
from raymeta.hypergrad.base import advance
from raymeta.problem import BilevelProblem, descent
from raymeta.testing.problems import sgd_everything
from raymeta.testing.truth import central_differences, largest_relative_error
from raymeta.types import Batch, Hparams, Tensors
from tests.support.heavy import charged_and_counted, layers

pytestmark = pytest.mark.usefixtures("float64")


def regression(loss):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(24, 3, generator=generator)
    data = TensorDataset(x, x.sum(1, keepdim=True).sin())
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))
    problem = module_problem(
        net,
        loss=loss,
        train=data,
        val=data,
        optimizer=lambda h: optim.sgd(h["lr"], momentum=h["momentum"]),
        batch_size=8,
    )
    return problem, {"lr": torch.tensor(0.1), "momentum": torch.tensor(0.6)}


@pytest.mark.parametrize("loss", [F.mse_loss, F.l1_loss], ids=["mse", "l1"])
def test_losses_of_two_floating_arguments(loss):
    problem, hparams = regression(loss)
    forward = hypergradient(problem, hparams, Forward(6))
    reverse = hypergradient(problem, hparams, Reverse(6))
    assert largest_relative_error(forward.grads, reverse.grads) < 1e-11


def test_an_operator_without_forward_derivative_is_named_with_the_remedy():
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        mean = torch.full((1, len(outputs)), 1 / len(outputs)).to_sparse()
        return torch.sparse.mm(mean, (outputs - targets).square()).sum()

    problem, hparams = regression(loss)
    hypergradient(problem, hparams, Reverse(2))
    with pytest.raises(ValueError, match=r"sparse_addmm.*use Reverse"):
        hypergradient(problem, hparams, Forward(2))


# ------------------------------------------------------------------------------ chunks


@pytest.mark.parametrize("chunk", [1, 5, 22, 100])
def test_chunks_of_tangents_change_nothing_but_the_charge(chunk):
    problem, hparams = sgd_everything()
    whole, estimator = Forward(4), Forward(4, chunk=chunk)
    expected, at = whole.estimate(problem, hparams, whole.init(problem, hparams))
    result, there = estimator.estimate(
        problem, hparams, estimator.init(problem, hparams)
    )
    assert largest_relative_error(result.grads, expected.grads) < 1e-12
    for ours, truth in zip(there.carry, at.carry, strict=True):
        torch.testing.assert_close(ours, truth, rtol=1e-12, atol=1e-14)
    count = 22
    assert len(at.carry[0]) == count
    passes = -(-count // chunk)
    assert result.gradient_evals == (passes + 2 * count) * 4 + problem.outer_cost
    assert result.gradient_evals == estimator.cost(problem, hparams)


def test_the_charge_of_chunks_is_what_is_multiplied():
    problem, hparams = layers("inputs")
    estimator = Forward(3, chunk=20)
    hypergradient(problem, hparams, estimator)  # traces, which runs steps as well
    charged, counted = charged_and_counted(estimator, problem, hparams)
    assert charged == (3 + 2 * 48) * 3 + 1
    assert 0.9 * charged < counted < 1.05 * charged


@pytest.mark.parametrize("chunk", [0, -3])
def test_a_chunk_of_nothing_is_refused(chunk):
    with pytest.raises(ValueError, match=rf"chunk >= 1, but got chunk={chunk}: leave"):
        Forward(3, chunk=chunk)


# -------------------------------------------------------------------- λ that moves on


def test_where_they_move_on_the_way_it_is_the_derivative_in_a_common_shift():
    problem, first = sgd_everything()
    second = {name: 1.2 * value + 0.02 for name, value in first.items()}
    estimator = Forward(4)
    rollout = estimator.init(problem, first)
    _, rollout = estimator.estimate(problem, first, rollout)
    result, rollout = estimator.estimate(problem, second, rollout)

    def shifted(shift: Hparams) -> float:
        one, two = ({k: h[k] + shift[k] for k in h} for h in (first, second))
        state = advance(problem, one, problem.init(one), 0, 4)
        state = advance(problem, two, state, 4, 4)
        return float(problem.outer_loss(state, two))

    zero = {name: torch.zeros_like(value) for name, value in first.items()}
    truth = central_differences(shifted, zero, 1e-2)
    assert largest_relative_error(result.grads, truth) < 1e-6


# -------------------------------------------------------------------------------- room


def no_step(*args: object) -> NoReturn:
    raise AssertionError("a step was taken")


def test_too_many_hyperparameters_are_refused_before_a_step():
    problem, hparams = sgd_everything()
    problem = replace(problem, step=no_step, batch=no_step)
    many = hparams | {"noise": torch.zeros(300, 250), "mask": torch.ones(25_000)}
    message = (
        r"each of the 100,022 scalar hyperparameters \(75,000 in 'noise'\), "
        r"[\d,.]+ GiB: use a reverse-type estimator \(Reverse, "
    )
    with pytest.raises(ValueError, match=message):
        Forward(3).init(problem, many)


def test_tangents_that_do_not_fit_are_refused_before_a_step(monkeypatch):
    problem, hparams = sgd_everything()
    # 22 tangents of 75 weights and velocities, a counter, and 22 hyperparameters.
    size = 22 * 8 * (2 * 75 + 1 + 22)
    monkeypatch.setattr(dual_numbers, "device_memory", lambda device: size)
    Forward(3).init(problem, hparams)
    monkeypatch.setattr(dual_numbers, "device_memory", lambda device: size - 1)
    problem = replace(problem, step=no_step, batch=no_step)
    with pytest.raises(ValueError, match=r"22 scalar .*\(16 in 'example_weight'\)"):
        Forward(3).init(problem, hparams)


# --------------------------------------------------------------------------- operators


def regressed(weigh: Callable[[Tensor, Tensor], Tensor]) -> BilevelProblem:
    """Two layers in the default dtype; `weigh` makes the loss of (λ, error)."""
    generator = torch.Generator().manual_seed(0)
    x, a, b = (torch.randn(4, 4, generator=generator) for _ in range(3))

    def error(params: Tensors) -> Tensor:
        return (torch.tanh(x @ params["a"]) @ params["b"] - x.sin()).square().mean()

    return descent(
        init_params=lambda h: {"a": a, "b": b},
        inner_loss=lambda params, h, batch: weigh(h["weight"], error(params)),
        outer_loss=lambda params, h: error(params),
        optimizer=lambda h: optim.sgd(h["lr"], momentum=0.5),
    )


NUMBERS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "2.0 * λ * loss": lambda λ, loss: 2.0 * λ * loss,
    "λ * 2 * loss": lambda λ, loss: λ * 2 * loss,
    "loss / 2 * λ": lambda λ, loss: loss / 2 * λ,
    "λ * loss / 3.0": lambda λ, loss: λ * loss / 3.0,
    "1 - λ": lambda λ, loss: (1 - λ) * loss,
    "λ - 0.1": lambda λ, loss: (λ - 0.1) * loss,
    "0.5 + λ": lambda λ, loss: (0.5 + λ) * loss,
    "λ**2": lambda λ, loss: λ**2 * loss,
    "2**λ": lambda λ, loss: 2**λ * loss,
    "1 / λ": lambda λ, loss: 1 / λ * loss,
    "-λ": lambda λ, loss: -λ * -loss,
    "torch.mul": lambda λ, loss: torch.mul(2.0, λ) * loss,
    "torch.div": lambda λ, loss: torch.div(loss, 2.0) * λ,
    "numpy": lambda λ, loss: np.float64(2.0) * λ * loss,
    "clamp": lambda λ, loss: λ.clamp(min=1e-3) * loss,
}


@pytest.mark.parametrize("weigh", NUMBERS.values(), ids=NUMBERS)
def test_python_numbers_keep_the_tangents_of_float32(weigh):
    torch.set_default_dtype(torch.float32)
    problem = regressed(weigh)
    hparams = {"weight": torch.tensor(0.3), "lr": torch.tensor(0.1)}
    estimator = Forward(3)
    rollout = estimator.init(problem, hparams)
    result, rollout = estimator.estimate(problem, hparams, rollout)
    assert {z.dtype for z in rollout.carry} == {torch.float32}
    assert {g.dtype for g in result.grads.values()} == {torch.float32}
    truth = hypergradient(problem, hparams, Reverse(3))
    assert largest_relative_error(result.grads, truth.grads) < 1e-5


def twice_where_positive(loss: Tensor, batch: Batch) -> Tensor:
    return 2 * loss if float(batch.data[0].sum()) > 0 else loss


def test_a_step_that_depends_on_values_runs_anew_each_time(monkeypatch):
    problem, hparams = sgd_everything()
    inner_loss = problem.step.inner_loss

    def loss(params: Tensors, buffers: Tensors, h: Hparams, batch: Batch):
        value, buffers = inner_loss(params, buffers, h, batch)
        return twice_where_positive(value, batch), buffers

    problem = replace(problem, step=replace(problem.step, inner_loss=loss))
    signs = {float(problem.batch(t).data[0].sum()) > 0 for t in range(4)}
    assert signs == {True, False}
    traces, original = [], recurrence.trace

    def trace(*args):
        traces.append(args)
        return original(*args)

    monkeypatch.setattr(recurrence, "trace", trace)
    estimator = Forward(3)
    rollout = estimator.init(problem, hparams)
    for steps in (3, 6, 9):
        result, rollout = estimator.estimate(problem, hparams, rollout)
        truth = hypergradient(problem, hparams, Reverse(steps))
        assert largest_relative_error(result.grads, truth.grads) < 1e-11
    assert len(traces) == 1  # to find out; not once for each estimate


def test_a_mask_of_another_size_each_time_is_no_fixed_graph():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 8, generator=generator)

    def loss(params: Tensors, h: Hparams, batch: Batch) -> Tensor:
        error = (params["w"] * batch.data - h["target"]).square()
        return error[batch.data > 0].sum() / error[batch.data > 0].shape[0]

    problem = descent(
        init_params=lambda h: {"w": torch.tensor(0.5)},
        inner_loss=loss,
        outer_loss=lambda params, h: params["w"].square(),
        optimizer=lambda h: optim.sgd(h["lr"], momentum=0.5),
        batch=lambda t: Batch(torch.tensor(t), x[t % 5]),
    )
    assert len({int((row > 0).sum()) for row in x}) > 2
    hparams = {"lr": torch.tensor(0.1), "target": torch.tensor(1.5)}
    forward = hypergradient(problem, hparams, Forward(7))
    reverse = hypergradient(problem, hparams, Reverse(7))
    assert largest_relative_error(forward.grads, reverse.grads) < 1e-12


@pytest.mark.usefixtures("float64")
def test_what_begins_late_in_a_run_has_its_derivative():
    def inner_loss(params, h, batch):
        loss = (params["w"] - 1).square().sum()
        if int(batch.index) >= 3:
            loss = loss + h["decay"] * params["w"].square().sum()
        return loss

    problem = descent(
        init_params=lambda h: {"w": torch.full((2,), 3.0)},
        inner_loss=inner_loss,
        outer_loss=lambda params, h: params["w"].square().sum(),
        optimizer=lambda h: optim.sgd(h["lr"]),
    )
    hparams = {"lr": torch.tensor(0.1), "decay": torch.tensor(0.2)}
    found = hypergradient(problem, hparams, Forward(6)).grads
    right = hypergradient(problem, hparams, Reverse(6)).grads
    torch.testing.assert_close(found, right, rtol=1e-12, atol=0)
    with pytest.raises(ValueError, match="does not depend on hyperparameter 'decay'"):
        hypergradient(problem, hparams, Forward(3))
