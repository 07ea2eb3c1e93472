"""Descent while training goes on: what it scores besides its own runs."""

import pytest

from raymeta import optimize
from raymeta.hypergrad import Forward, ShortTerm
from raymeta.outer.optimize import mean_hparams
from raymeta.outer.report import plain_run
from raymeta.tasks import Quadratic

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("estimator", [ShortTerm(7), Forward(5)], ids=str)
def test_the_mean_of_the_best_schedule_is_trained_at_as_a_constant(estimator):
    """So that E of what a descent calls its hyperparameters is known, and counts."""
    task = Quadratic()
    reports = [r for r in optimize(task, estimator, budget=900).reports if r.complete]
    runs = [r for r in reports if len(r.schedule) > 1]
    best = min(runs, key=lambda r: r.outer_loss)
    mean = mean_hparams(task.space, best.schedule)
    point = task.space.point(mean)
    (at_mean,) = [r for r in reports if r.hparams == pytest.approx(point, rel=1e-9)]
    exact = plain_run(task.sample(0), mean, task.horizon)[1]
    assert at_mean.outer_loss == pytest.approx(exact, rel=1e-9)
    assert len(at_mean.schedule) == 1
