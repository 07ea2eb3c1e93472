"""Batch norms: their statistics in the state, and the policies."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raymeta import optim
from raymeta.hypergrad import hypergradient
from raymeta.hypergrad.base import advance
from raymeta.modules import PerStep
from raymeta.outer.report import plain_run
from raymeta.problem import BilevelProblem
from raymeta.testing.truth import largest_relative_error, run_differences
from raymeta.types import Hparams
from tests.support.module_cases import (
    CLOSE,
    VAL,
    both,
    data,
    hparams_of,
    mlp,
    problem_of,
    train_with_torch,
)

pytestmark = pytest.mark.usefixtures("float64")


def test_running_statistics_live_in_the_state():
    problem = problem_of(mlp(nn.BatchNorm1d(6)))
    first = problem.init(hparams_of())
    second = problem.step(first, hparams_of(), problem.batch(0))
    assert first.buffers["1.running_mean"].tolist() == [0.0] * 6
    assert int(first.buffers["1.num_batches_tracked"]) == 0
    assert int(second.buffers["1.num_batches_tracked"]) == 1
    (inputs,), _, _ = problem.batch(0).data
    hidden = F.linear(inputs, first.params["0.weight"], first.params["0.bias"])
    mean, var = second.buffers["1.running_mean"], second.buffers["1.running_var"]
    torch.testing.assert_close(mean, 0.1 * hidden.mean(0), **CLOSE)
    torch.testing.assert_close(var, 0.9 + 0.1 * hidden.var(0), **CLOSE)


@both
def test_the_statistics_part_of_a_hypergradient_is_not_negligible(estimator):
    """A scale of the weights before a norm acts on its statistics alone."""
    module, scale = mlp(nn.BatchNorm1d(6)), {"scale": torch.tensor(1.3)}

    def optimizer(hparams: Hparams) -> optim.Optimizer:
        def update(grads, memory, params, t):
            scaled = {k: p * hparams["scale"] for k, p in params.items() if k[0] == "0"}
            return params | scaled, memory

        return optim.Optimizer(lambda params: (), update)

    problem = problem_of(module, optimizer=optimizer)
    result = hypergradient(problem, scale, estimator)
    truth = run_differences(problem, scale, 6)
    assert abs(float(truth["scale"])) > 1e-3
    assert largest_relative_error(result.grads, truth) < 1e-7


def test_one_value_per_channel_cannot_be_normalized():
    with pytest.raises(ValueError, match=r"more than one value per .*: raise batch_si"):
        problem_of(mlp(nn.BatchNorm1d(6)), batch_size=1)


def test_inputs_of_a_wrong_rank_are_refused_as_by_torch():
    with pytest.raises(ValueError, match=r"expected 4D input \(got 2D input\)"):
        problem_of(mlp(nn.BatchNorm2d(6)))


class Louder(nn.BatchNorm1d):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


@pytest.mark.parametrize(
    "norm",
    [
        nn.InstanceNorm1d(6, track_running_stats=True),
        nn.SyncBatchNorm(6),
        Louder(6),
    ],
    ids=lambda norm: type(norm).__name__,
)
def test_statistics_without_a_derivative_are_refused_before_step_one(norm):
    name = type(norm).__name__
    message = f"cannot differentiate the running statistics of {name}: use nn.BatchNo"
    with pytest.raises(ValueError, match=message):
        problem_of(mlp(norm))


def test_a_norm_that_the_module_itself_keeps_in_evaluation_mode_stays_so():
    class Fixed(nn.BatchNorm1d):
        def train(self, mode: bool = True) -> nn.Module:
            return super().train(False)

    module = mlp(Fixed(6))
    problem = problem_of(module)
    state, _ = plain_run(problem, hparams_of(), 5)
    train_with_torch(module, problem, 5)
    for name, tensor in (state.params | state.buffers).items():
        torch.testing.assert_close(tensor, module.state_dict()[name], **CLOSE)
    assert state.buffers["1.running_mean"].tolist() == [0.0] * 6


# ----------------------------------------------------------------------------- policies


def trained(policy, steps: int = 5, momentum: float | None = 0.3, **others):
    """A net whose norm has statistics of its own, its problem and s_T."""
    net = mlp(nn.BatchNorm1d(6, momentum=momentum))
    net[1].running_mean.fill_(0.5)
    net[1].running_var.fill_(1.5)
    problem = problem_of(net, batch_norm=policy, **others)
    return (
        net,
        problem,
        advance(problem, hparams_of(), problem.init(hparams_of()), 0, steps),
    )


def hidden(problem: BilevelProblem, state, t: int) -> Tensor:
    """What the norm sees of batch t."""
    (inputs,), _, _ = problem.batch(t).data
    return F.linear(inputs, state.params["0.weight"], state.params["0.bias"])


def outer_loss(state, normalize) -> Tensor:
    """By hand, with any normalization."""
    x, y = data(n=VAL, seed=1).tensors
    p = state.params
    x = normalize(F.linear(x, p["0.weight"], p["0.bias"])) * p["1.weight"] + p["1.bias"]
    return F.cross_entropy(F.linear(x.tanh(), p["3.weight"], p["3.bias"]), y)


def by(mean: Tensor, var: Tensor):
    return lambda x: (x - mean) / (var + 1e-5).sqrt()


@pytest.mark.parametrize("policy", ["running", "batch", "frozen", PerStep(3)], ids=str)
@both
def test_every_policys_hypergradient_is_the_true_one(policy, estimator):
    _, problem, _ = trained(policy)
    result = hypergradient(problem, hparams_of(), estimator)
    truth = run_differences(problem, hparams_of(), 6)
    assert largest_relative_error(result.grads, truth) < 1e-7


def test_batch_normalizes_by_the_batch_in_evaluation_too_and_keeps_nothing():
    net, problem, state = trained("batch")
    assert not state.buffers
    truth = outer_loss(state, lambda x: by(x.mean(0), x.var(0, correction=0))(x))
    torch.testing.assert_close(problem.outer_loss(state, {}), truth, **CLOSE)
    assert net[1].running_mean.tolist() == [0.5] * 6


def test_frozen_normalizes_by_the_modules_own_statistics_in_training_too():
    net, problem, state = trained("frozen")
    assert state.buffers["1.running_mean"].tolist() == [0.5] * 6
    own = by(net[1].running_mean, net[1].running_var)
    torch.testing.assert_close(
        problem.outer_loss(state, {}), outer_loss(state, own), **CLOSE
    )
    net.eval()
    (inputs,), targets, _ = problem.batch(0).data
    torch.testing.assert_close(
        problem.inner_loss(problem.init(hparams_of()), {}, problem.batch(0)),
        F.cross_entropy(net(inputs), targets).detach(),
        **CLOSE,
    )


@pytest.mark.parametrize("momentum", [0.3, None])
def test_per_step_keeps_a_row_of_statistics_for_every_step(momentum):
    rate = 1.0 if momentum is None else momentum
    net, problem, _ = trained(PerStep(3), momentum=momentum)
    state, own = problem.init(hparams_of()), 0.5
    for t in range(5):
        row = min(t, 2)
        rows = state.buffers["1.running_mean"].clone()
        seen = hidden(problem, state, t)
        state = problem.step(state, hparams_of(), problem.batch(t))
        rows[row] = (1 - rate) * rows[row] + rate * seen.mean(0)
        torch.testing.assert_close(state.buffers["1.running_mean"], rows, **CLOSE)
        assert int(state.buffers["1.num_batches_tracked"]) == t + 1
        var = state.buffers["1.running_var"][row]
        if t < 3:
            torch.testing.assert_close(
                var, (1 - rate) * 1.5 + rate * seen.var(0), **CLOSE
            )
            assert (rows[t + 1 :] == own).all()
        truth = outer_loss(state, by(rows[row], var))
        torch.testing.assert_close(problem.outer_loss(state, {}), truth, **CLOSE)
    assert net[1].running_mean.tolist() == [0.5] * 6


@both
def test_weights_of_a_norm_may_be_learned_per_step(estimator):
    """As λ: every step uses its own row, evaluation that of the last step."""
    net = mlp(nn.BatchNorm1d(6))
    net[1].requires_grad_(False)
    problem = problem_of(
        net, batch_norm=PerStep(6), frozen=lambda h: {"1.weight": h["gamma"]}
    )
    gamma = torch.linspace(0.5, 2.0, 36).reshape(6, 6)
    result = hypergradient(problem, hparams_of(gamma=gamma), estimator)
    truth = run_differences(problem, hparams_of(gamma=gamma), 6)
    assert largest_relative_error(result.grads, truth) < 1e-7
    assert (truth["gamma"].norm(dim=1) > 1e-4).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: problem_of(mlp(), batch_norm="eval"), r"'frozen' or PerStep\(steps\)"),
        (lambda: PerStep(0), "PerStep needs steps >= 1, but got steps=0"),
    ],
)
def test_refuses_policies(make, message):
    with pytest.raises(ValueError, match=message):
        make()
