"""The outer loop with every estimator: progress, budget, shorter horizons, replay."""

import pytest
import torch

from raymeta.hypergrad import (
    ES,
    PES,
    Checkpointed,
    ConjugateGradient,
    Estimator,
    Implicit,
    Reverse,
    Truncated,
)
from raymeta.outer.descend import descend
from raymeta.outer.optimize import optimize
from raymeta.outer.replay import replay
from raymeta.outer.report import plain_run
from tests.support.ridge import Ridge

pytestmark = pytest.mark.usefixtures("float64")
TASK = Ridge(horizon=40, budget=3000)
ESTIMATORS: dict[str, Estimator] = {
    "reverse": Reverse(40),
    "truncated": Truncated(40, window=10),
    "checkpointed": Checkpointed(40),
    "checkpointed-segments": Checkpointed(40, segments=30),
    "checkpointed-states": Checkpointed(40, states=3),
    "implicit": Implicit(40, ConjugateGradient(20)),
    "es": ES(40, sigma=0.02, pairs=4),
    "pes": PES(10, sigma=0.02, pairs=4),
}
every_estimator = pytest.mark.parametrize(
    "estimator", ESTIMATORS.values(), ids=ESTIMATORS
)


@every_estimator
def test_descends_within_the_budget_to_a_run_that_replays(estimator):
    result = optimize(TASK, estimator)
    assert result.reports[-1].gradient_evals <= TASK.budget
    problem = TASK.sample(0)
    start = plain_run(problem, TASK.space.initial(), TASK.horizon)[1]
    assert result.outer_loss < 0.5 * start
    again = replay(problem, TASK.space, result.schedule)
    for name, w in result.state.params.items():
        torch.testing.assert_close(again.params[name], w, rtol=1e-12, atol=1e-15)


@every_estimator
def test_looks_at_shorter_horizons_first_or_ends_with_a_shorter_window(estimator):
    task = Ridge(horizon=35)
    reports = descend(
        task, task.sample(0), estimator, seed=0, budget=20_000, hyper_lr=1.0
    )
    steps = [next(reports).inner_steps for _ in range(6)]
    online = [35, 10, 20, 30, 35, 10]
    assert steps == (online if estimator.continues else [35, 4, 8, 17, 35, 35])
