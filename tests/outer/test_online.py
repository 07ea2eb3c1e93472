"""Descent while training goes on: what it scores besides its own runs."""

import math
from itertools import pairwise

import pytest

from raymeta import optimize
from raymeta.hypergrad import Forward, ShortTerm
from raymeta.hypergrad.registry import by_name
from raymeta.outer.optimize import mean_hparams
from raymeta.outer.replay import replay
from raymeta.outer.report import plain_run
from raymeta.tasks import Digits, Quadratic

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("estimator", [ShortTerm(7), Forward(5)], ids=str)
def test_the_mean_of_the_best_schedule_is_trained_at_as_a_constant(estimator):
    """So that E of what a descent calls its hyperparameters is known, and counts."""
    task = Quadratic()
    reports = [r for r in optimize(task, estimator, budget=900).reports if r.complete]
    runs = [r for r in reports if len(r.schedule) > 1 and math.isnan(r.offset)]
    best = min(runs, key=lambda r: r.outer_loss)
    mean = mean_hparams(task.space, best.schedule)
    point = task.space.point(mean)
    (at_mean,) = [r for r in reports if r.hparams == pytest.approx(point, rel=1e-9)]
    exact = plain_run(task.sample(0), mean, task.horizon)[1]
    assert at_mean.outer_loss == pytest.approx(exact, rel=1e-9)
    assert len(at_mean.schedule) == 1


def test_runs_that_look_at_batches_are_scored_on_all_validation_examples():
    """The looks cost a part of E, and the first and the last of a run E's value."""
    task = Digits(horizon=12)
    problem = task.sample(0)
    result = optimize(task, "short_term", budget=300)
    assert sum(r.complete and len(r.schedule) > 1 for r in result.reports) > 2
    last = task.space.hparams(result.schedule[-1][1])
    value = float(problem.outer_loss(result.state, last))
    assert result.outer_loss == pytest.approx(value, rel=1e-9)
    spent = [r.gradient_evals for r in result.reports]
    assert spent[-1] <= 300
    run = [b - a for a, b in pairwise(spent[1:12])]
    look = by_name("short_term", 12).cost(problem, task.space.initial())
    assert look < 1 + problem.outer_cost
    assert run == pytest.approx([look] * 10)
    assert spent[1] - spent[0] == pytest.approx(1 + problem.outer_cost)
    assert spent[12] - spent[11] == pytest.approx(look + problem.outer_cost / 3)


def test_looks_beside_a_schedule_move_all_of_it():
    """Plain runs along the best run's λ, 3 % to both sides where E is steepest."""
    task = Quadratic()
    problem = task.sample(0)
    reports = optimize(task, ShortTerm(2), budget=250).reports
    looks = [r for r in reports if not math.isnan(r.offset)]
    assert [r.offset for r in looks] == [-0.03, 0.03]
    seen = [r for r in reports if r.complete and math.isnan(r.offset)]
    best = min(seen, key=lambda r: r.outer_loss)
    assert len(best.schedule) > 1
    for look in looks:
        state = replay(problem, task.space, look.schedule)
        hparams = task.space.hparams(look.schedule[-1][1])
        value = float(problem.outer_loss(state, hparams))
        assert look.outer_loss == pytest.approx(value, rel=1e-9)
        assert look.gradient_evals - reports[
            reports.index(look) - 1
        ].gradient_evals == (pytest.approx(task.horizon + problem.outer_cost / 3))
        moves = [
            max(abs(math.log(at[n] / was[n])) for n in ("lr",))
            for (_, at), (_, was) in zip(look.schedule, best.schedule, strict=True)
        ]
        assert max(moves) <= 0.03 + 1e-9


def test_agreement_of_looks_stands_in_the_reports():
    """From the first comparison on, after the first run that was no better."""
    looks = ShortTerm(1, adaptive=True)
    reports = optimize(Quadratic(), looks, budget=900).reports
    known = [r.agreement for r in reports if not math.isnan(r.agreement)]
    assert math.isnan(reports[0].agreement)
    assert len(known) > 10
    plain = optimize(Quadratic(), ShortTerm(1), budget=900).reports
    assert all(math.isnan(r.agreement) for r in plain)
    assert all(-1 <= agreement <= 1 for agreement in known)
