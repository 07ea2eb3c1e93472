"""Every exact estimator; a new one is one line in WHOLE."""

import pytest
import torch

from raymeta.hypergrad import (
    Checkpointed,
    Combined,
    Forward,
    Reverse,
    Reversible,
    ShortTerm,
    Smoothed,
    Truncated,
    hypergradient,
)
from raymeta.hypergrad.base import unroll
from raymeta.optim import sgd
from raymeta.problem import descent
from raymeta.tasks import Quadratic
from raymeta.testing.estimators import EstimatorConformance, WholeRunConformance
from raymeta.testing.problems import sgd_everything
from raymeta.testing.truth import central_differences, largest_relative_error
from raymeta.types import Hparams

pytestmark = pytest.mark.usefixtures("float64")
#: Estimators over whole runs: steps -> the estimator.
WHOLE = {
    "reverse": Reverse,
    "reverse-higher": lambda steps: Reverse(steps, engine="higher"),
    "forward": Forward,
    "truncated": lambda steps: Truncated(steps, window=steps),
    "checkpointed": Checkpointed,
    "checkpointed-states": lambda steps: Checkpointed(steps, states=3),
    "reversible": lambda steps: Reversible(steps, fractional_bits=56),
}


class TestWholeRuns(WholeRunConformance):
    @pytest.fixture(params=WHOLE)
    def name(self, request):
        return request.param

    @pytest.fixture
    def make(self, name):
        return WHOLE[name]

    @pytest.fixture
    def refused_at_zero(self, name):
        return ("momentum", "weight_decay") if name == "reverse-higher" else ()


#: Estimators of a smoothed outer loss, over so little that it is the loss itself.
SMOOTHED = {
    "smoothed": lambda steps: Smoothed(Reverse(steps), radius=1e-8),
    "combined": lambda steps: Combined(
        (Checkpointed(steps), Reverse(steps)), radius=1e-8
    ),
}


class TestSmoothedRuns(WholeRunConformance):
    @pytest.fixture(params=SMOOTHED)
    def make(self, request):
        return SMOOTHED[request.param]


class TestShortTerm(EstimatorConformance):
    @pytest.fixture
    def make(self):
        return ShortTerm


def test_short_term_is_the_derivative_with_the_state_held_fixed():
    problem, hparams = sgd_everything()
    del hparams["init_scale"]
    estimator = ShortTerm(2)
    rollout = estimator.init(problem, hparams)
    for _ in range(3):
        state, t = rollout.state, rollout.step
        result, rollout = estimator.estimate(problem, hparams, rollout)

        def ahead(moved: Hparams, state=state, t=t) -> float:
            after = unroll(problem, moved, state, t, 2)
            return float(problem.outer_loss(after, moved))

        truth = central_differences(ahead, hparams, 1e-5)
        assert largest_relative_error(result.grads, truth) < 1e-7
        assert rollout.step == t + 2


def test_short_term_is_baydins_formula_for_the_learning_rate():
    task = Quadratic(eigenvalues=(1.0, 4.0, 10.0))
    problem, h = task.sample(1), torch.tensor(task.eigenvalues)
    hparams = {"lr": torch.tensor(0.05), "momentum": torch.tensor(0.0)}
    estimator = ShortTerm()
    rollout = estimator.init(problem, hparams)
    w = rollout.state.params["w"]
    result, rollout = estimator.estimate(problem, hparams, rollout)
    next_w = w - 0.05 * h * w
    formula = -(h * next_w) @ (h * w)
    assert float(result.grads["lr"]) == pytest.approx(float(formula), rel=1e-12)


def test_short_term_says_that_it_cannot_see_the_start():
    problem, hparams = sgd_everything()
    with pytest.raises(ValueError, match=r"'init_scale'.*no short-term effect"):
        hypergradient(problem, hparams, ShortTerm())


def test_forward_continued_equals_one_longer_run():
    problem, hparams = sgd_everything()
    whole = hypergradient(problem, hparams, Forward(12))
    estimator = Forward(4)
    rollout = estimator.init(problem, hparams)
    for _ in range(3):
        result, rollout = estimator.estimate(problem, hparams, rollout)
    assert rollout.step == 12
    assert largest_relative_error(result.grads, whole.grads) < 1e-13


@pytest.mark.parametrize("make", [Reverse, Forward], ids=["reverse", "forward"])
def test_a_training_loss_that_no_parameter_enters_trains_nothing(make):
    problem = descent(
        init_params=lambda hparams: {"w": torch.ones(2) * hparams["start"]},
        inner_loss=lambda params, hparams, batch: torch.tensor(1.0),
        outer_loss=lambda params, hparams: params["w"].square().sum(),
        optimizer=lambda h: sgd(0.1, momentum=0.5),
    )
    result = hypergradient(problem, {"start": torch.tensor(3.0)}, make(4))
    assert float(result.grads["start"]) == 12.0
