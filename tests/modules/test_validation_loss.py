"""Validation loss over a batch: its mean, its derivatives, and where there is none."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from raymeta.hypergrad import Forward, ShortTerm
from raymeta.hypergrad.base import advance
from raymeta.problem import ValidationLoss
from tests.support.module_cases import SIZE, VAL, hparams_of, mlp, problem_of

pytestmark = pytest.mark.usefixtures("float64")


def value_and_gradient(function, state, hparams):
    params = {name: w.detach().requires_grad_() for name, w in state.params.items()}
    value = function(state._replace(params=params), hparams)
    return value.detach(), torch.autograd.grad(value, list(params.values()))


@pytest.mark.parametrize(("count", "size"), [(1, 1), (2, SIZE), (7, SIZE)])
def test_batches_of_an_epoch_are_the_whole_in_the_mean(count, size):
    """Each example once, so E and its gradient are the means of theirs."""
    problem = problem_of(mlp(nn.LayerNorm(6)), batch_size=size)
    hparams = hparams_of()
    state, loss = problem.init(hparams), problem.outer_loss
    state = advance(problem, hparams, state, 0, 3)
    looks = range(VAL // count)
    batches = [loss.batch(count, t) for t in looks]
    assert torch.cat(batches).sort().values.tolist() == list(range(VAL))
    assert all(torch.equal(loss.batch(count, t), batches[t]) for t in looks)
    parts = [
        value_and_gradient(lambda s, h, b=b: loss.mean(s, h, b), state, hparams)
        for b in batches
    ]
    value, gradient = value_and_gradient(problem.outer_loss, state, hparams)
    mean = sum(v for v, _ in parts) / len(parts)
    assert float(mean) == pytest.approx(float(value), rel=1e-13)
    for i, exact in enumerate(gradient):
        found = torch.stack([g[i] for _, g in parts]).mean(0)
        torch.testing.assert_close(found, exact, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize(
    "estimator", [ShortTerm(2, val_share=0.25), Forward(2, val_share=0.1)], ids=str
)
def test_an_estimate_is_the_derivative_of_the_mean_over_its_batch(estimator):
    """And charges for as much of E as it has looked at."""
    problem, hparams = problem_of(mlp()), hparams_of()
    whole, loss = replace(estimator, val_share=None), problem.outer_loss
    steps_cost = whole.cost(problem, hparams) - VAL / SIZE
    count = int(estimator.val_share * steps_cost * SIZE)
    rollout, seen = estimator.init(problem, hparams), set()
    for t in range(3):
        batch = loss.batch(count, t)
        seen.add(tuple(batch.tolist()))
        on_batch = replace(
            problem, outer_loss=lambda s, h, batch=batch: loss.mean(s, h, batch)
        )
        exact, _ = whole.estimate(on_batch, hparams, rollout)
        found, rollout = estimator.estimate(problem, hparams, rollout)
        assert float(found.outer_loss) == pytest.approx(float(exact.outer_loss), 1e-12)
        for name, grad in exact.grads.items():
            torch.testing.assert_close(found.grads[name], grad, rtol=1e-10, atol=1e-14)
        assert found.gradient_evals == pytest.approx(steps_cost + count / SIZE)
        assert found.gradient_evals == estimator.cost(problem, hparams)
    assert len(seen) == 3


def test_a_share_that_covers_all_is_the_whole_loss():
    problem, hparams = problem_of(mlp()), hparams_of()
    found, exact = (
        one.estimate(problem, hparams, one.init(problem, hparams))[0]
        for one in (ShortTerm(2, val_share=1.0), ShortTerm(2))
    )
    assert torch.equal(found.outer_loss, exact.outer_loss)
    assert found.gradient_evals == exact.gradient_evals


@pytest.mark.parametrize(
    "others",
    [
        {"loss": lambda y, t: F.cross_entropy(y, t, reduction="sum")},
        {"loss": lambda y, t: F.cross_entropy(y, t, torch.tensor([1.0, 2.0, 9.0]))},
        {"batch_norm": "batch"},
    ],
    ids=["sum", "weights by class", "batch norm"],
)
def test_what_is_no_mean_over_examples_is_taken_whole(others):
    problem = problem_of(mlp(nn.BatchNorm1d(6)), **others)
    hparams = hparams_of()
    assert not isinstance(problem.outer_loss, ValidationLoss)
    estimator = ShortTerm(2, val_share=1e-3)
    whole = ShortTerm(2).cost(problem, hparams)
    assert estimator.cost(problem, hparams) == whole


def test_a_share_of_nothing_is_refused():
    with pytest.raises(ValueError, match=r"ShortTerm needs val_share > 0, but got .*0"):
        ShortTerm(val_share=0.0)
