"""Randomness in training: a function of the seed and the step."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raymeta.hypergrad import ES, Forward, Reverse, ShortTerm, hypergradient
from raymeta.modules import Examples
from raymeta.outer.report import plain_run
from raymeta.problem import BilevelProblem
from raymeta.testing.truth import largest_relative_error, run_differences
from raymeta.types import Batch
from tests.support.module_cases import (
    CLOSE,
    SIZE,
    VAL,
    both,
    data,
    hparams_of,
    mlp,
    problem_of,
)

pytestmark = pytest.mark.usefixtures("float64")


def dropout(**others) -> BilevelProblem:
    return problem_of(mlp(nn.Dropout(0.5)), **others)


def after_one_step(problem: BilevelProblem, t: int, batch: Batch | None = None):
    state = problem.init(hparams_of())
    batch = problem.batch(t) if batch is None else batch
    return problem.step(state, hparams_of(), batch).params["0.weight"]


def test_a_step_done_again_drops_the_same():
    problem = dropout()
    first = after_one_step(problem, 4)
    torch.manual_seed(11)
    after_one_step(problem, 9)
    assert torch.equal(after_one_step(problem, 4), first)
    assert torch.equal(after_one_step(dropout(), 4), first)


def test_another_step_or_seed_drops_others():
    batch = dropout().batch(0)

    def at(t: int, seed: int) -> Tensor:
        moved = Batch(torch.tensor(t), batch.data)
        return after_one_step(dropout(seed=seed), t, moved)

    some = [at(t, seed) for t, seed in ((0, 0), (1, 0), (0, 1), (1, 1), (2, 0))]
    for i, one in enumerate(some):
        assert not any(torch.equal(one, other) for other in some[:i])


def test_dropped_units_differ_between_examples_of_a_batch():
    class Mask(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(64))

        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(self.scale.expand(len(x), 64), 0.5, self.training)

    seen: list[Tensor] = []

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        seen[:] = [outputs]
        return outputs.sum()

    problem = problem_of(Mask(), loss=loss)
    problem.inner_loss(problem.init(hparams_of()), hparams_of(), problem.batch(0))
    (outputs,) = seen
    assert set(outputs.unique().tolist()) == {0.0, 2.0}
    assert len({tuple(row) for row in outputs.tolist()}) == SIZE
    assert 0.35 < float((outputs == 0).double().mean()) < 0.65


def test_the_global_generator_is_left_alone():
    problem = dropout()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    for estimator in (Reverse(2), Forward(2), ShortTerm(2)):
        hypergradient(problem, hparams_of(), estimator)
    plain_run(problem, hparams_of(), 2)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_global_generator_is_given_back_after_an_error():
    class Failing(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            torch.randperm(3)
            raise RuntimeError("out of paper")

    module = Failing(5, 3)
    before = torch.get_rng_state()
    with pytest.raises(ValueError, match=r"called with the first batch.* out of paper"):
        problem_of(module)
    assert torch.equal(torch.get_rng_state(), before)


@both
def test_the_hypergradient_through_dropout_is_the_true_one(estimator):
    problem = dropout()
    result = hypergradient(problem, hparams_of(), estimator)
    truth = run_differences(problem, hparams_of(), 6)
    assert largest_relative_error(result.grads, truth) < 1e-7


def test_the_outer_loss_is_taken_in_evaluation_mode():
    module = mlp(nn.Dropout(0.5), nn.BatchNorm1d(6)).train()
    problem = problem_of(module)
    state = problem.init(hparams_of())
    inputs, targets = data(n=VAL, seed=1).tensors
    truth = F.cross_entropy(deepcopy(module).eval()(inputs), targets).detach()
    value = problem.outer_loss(state, {})
    torch.testing.assert_close(value, truth, **CLOSE)
    # Not so the inner one.
    batch = Batch(torch.tensor(0), Examples((inputs,), targets, torch.arange(VAL)))
    assert abs(float(problem.inner_loss(state, {}, batch) - truth)) > 1e-3


class Deranged(nn.Linear):
    """A random function without a rule: examples in a random order."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[torch.randperm(len(x))] if self.training else x)


class Sampler(nn.Linear):
    """Random numbers in evaluation, too."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + torch.randn_like(x))


def test_functions_without_a_rule_draw_from_a_generator_seeded_by_the_step():
    torch.manual_seed(1)
    problem = problem_of(Deranged(5, 3))
    before = torch.get_rng_state()
    results = [
        hypergradient(problem, hparams_of(), e) for e in (Reverse(4), Forward(4))
    ]
    assert largest_relative_error(results[0].grads, results[1].grads) < 1e-10
    truth = run_differences(problem, hparams_of(), 4)
    assert largest_relative_error(results[0].grads, truth) < 1e-7
    assert torch.equal(torch.get_rng_state(), before)


def test_random_numbers_of_evaluation_are_a_function_of_the_seed():
    torch.manual_seed(1)
    module = Sampler(5, 3)
    one, same, other = (problem_of(module, seed=seed) for seed in (1, 1, 2))
    state = one.init(hparams_of())
    values = [p.outer_loss(state, {}) for p in (one, one, same, other)]
    assert torch.equal(values[0], values[1])
    assert torch.equal(values[0], values[2])
    assert not torch.equal(values[0], values[3])


@pytest.mark.parametrize("vectorized", [True, False])
def test_every_run_of_a_population_drops_the_same(vectorized):
    problem, hparams = dropout(), hparams_of()
    sampled = ES(4, sigma=1e-4, pairs=40, vectorized=vectorized)
    result = hypergradient(problem, hparams, sampled)
    truth = hypergradient(problem, hparams, Reverse(4)).grads
    # Two directions, 40 pairs: an estimate of the gradient to a third of its length.
    assert (
        largest_relative_error({"all": flat(result.grads)}, {"all": flat(truth)}) < 0.5
    )


def flat(grads) -> Tensor:
    return torch.stack([grads[name] for name in sorted(grads)])
