"""Reverse mode through a window: what it holds fixed, its bias, memory and cost."""

from itertools import pairwise

import pytest
import torch

from raymeta.hypergrad import Reverse, Truncated, hypergradient
from raymeta.hypergrad.base import advance, unroll, with_steps
from raymeta.testing.problems import sgd_everything
from raymeta.testing.truth import central_differences, largest_relative_error
from raymeta.types import Hparams
from tests.support.heavy import charged_and_counted, layers
from tests.support.memory import peak_bytes
from tests.support.ridge import D, Ridge

pytestmark = pytest.mark.usefixtures("float64")


def test_is_the_derivative_with_the_state_before_the_window_held_fixed():
    problem, hparams = sgd_everything()
    del hparams["init_scale"]
    before = advance(problem, hparams, problem.init(hparams), 0, 8)

    def ahead(moved: Hparams) -> float:
        after = unroll(problem, moved, before, 8, 5)
        return float(problem.outer_loss(after, moved))

    estimator = Truncated(13, window=5)
    rollout = estimator.init(problem, hparams)
    result, rollout = estimator.estimate(problem, hparams, rollout)
    truth = central_differences(ahead, hparams, 1e-5)
    assert largest_relative_error(result.grads, truth) < 1e-7
    assert rollout.step == 13
    whole = hypergradient(problem, hparams, Reverse(13))
    torch.testing.assert_close(result.outer_loss, whole.outer_loss, rtol=1e-14, atol=0)


def test_the_error_decays_exponentially_where_the_inner_loss_is_strongly_convex():
    problem, hparams = Ridge().sample(0), {"l2": torch.full((D,), 0.3)}
    truth = hypergradient(problem, hparams, Reverse(120)).grads
    errors = [
        largest_relative_error(
            hypergradient(problem, hparams, Truncated(120, window)).grads, truth
        )
        for window in (10, 20, 30, 40)
    ]
    ratios = [b / a for a, b in pairwise(errors)]
    assert errors[0] > 1e-3
    assert all(ratio < 0.25 for ratio in ratios)


def test_memory_follows_the_window_and_not_the_run():
    problem, hparams = sgd_everything()
    del hparams["init_scale"]

    def peak(steps: int, window: int) -> int:
        return peak_bytes(
            lambda: hypergradient(problem, hparams, Truncated(steps, window))
        )

    assert peak(96, 6) == peak(24, 6)
    assert peak(24, 12) > 1.7 * peak(24, 6)


def test_what_acts_before_the_window_alone_is_named_with_the_remedy():
    problem, hparams = sgd_everything()
    with pytest.raises(ValueError, match=r"'init_scale'.*needs window=steps"):
        hypergradient(problem, hparams, Truncated(6, window=3))


@pytest.mark.parametrize("window", [0, 7])
def test_a_window_outside_the_run_is_refused(window):
    with pytest.raises(ValueError, match=f"window={window}, steps=6: window=6"):
        Truncated(6, window)


def test_the_window_shrinks_with_the_run_and_only_then():
    assert with_steps(Truncated(100, window=20), 12) == Truncated(12, window=12)
    assert with_steps(Truncated(100, window=20), 50) == Truncated(50, window=20)


@pytest.mark.parametrize("where", ["optimizer", "weights"])
@pytest.mark.parametrize("window", [1, 5, 12])
def test_charge_equals_the_count_of_multiplications(where, window):
    problem, hparams = layers(where)
    estimator = Truncated(12, window)
    charged, counted = charged_and_counted(estimator, problem, hparams)
    assert charged == estimator.cost(problem, hparams)
    assert 0.8 * charged < counted < 1.05 * charged
