"""One run that descends while it trains; numbers against the toy's closed form."""

import math

import pytest

from raymeta.hypergrad import ShortTerm
from raymeta.outer.coordinates import Coordinates
from raymeta.outer.online_run import OnlineRun
from raymeta.outer.steps.adam import HYPER_LR
from raymeta.space import Choice, Space
from raymeta.tasks import Quadratic
from tests.support.search_toys import Bowl


def within(task, steps=1):
    space = task.space
    fixed = {name: Choice((c.initial,)) for name, c in space.choices.items()}
    return OnlineRun(
        problem=task.sample(0),
        coordinates=Coordinates(Space(**{**space, **fixed})),
        estimator=ShortTerm(steps),
        horizon=task.horizon,
    )


def test_without_hyper_steps_it_is_plain_training():
    task = Bowl()
    run = within(task)
    start = run.begin(run.coordinates.start())

    reports = [r for r, _ in run.reports(start, (4, 9), factor=0.0)]

    for report, steps in zip(reports, (4, 9), strict=True):
        exact = task.outer(0.1, 0, steps)
        assert report.outer_loss == pytest.approx(exact, rel=1e-6)
        assert report.hparams["lr"] == pytest.approx(0.1)
    assert [r.complete for r in reports] == [False, True]


@pytest.mark.parametrize("factor", [1.0, 0.3])
def test_the_first_hyper_step_has_the_length_of_the_hyper_learning_rate(factor):
    """Adam's first step is η sign(g), and a larger lr lowers the loss."""
    task = Bowl()
    run = within(task)
    start = run.begin(run.coordinates.start())

    (_, standing), (report, _) = run.reports(start, (1, 2), factor=factor)

    second = 0.1 * math.exp(factor * HYPER_LR)
    assert float(standing.x.exp()) == pytest.approx(second, rel=1e-6)
    exact = (1 - 0.1) ** 2 * (1 - second) ** 2
    assert report.outer_loss == pytest.approx(exact, rel=1e-6)


def test_left_and_taken_up_it_is_the_same_run_to_the_last_bit():
    task = Quadratic()
    run = within(task, steps=3)
    start = run.begin(run.coordinates.start())
    rungs = (5, 11, 20)
    whole = list(run.reports(start, rungs))

    standing, pieces = start, []
    for rung in rungs:
        ((report, standing),) = run.reports(standing, (rung,))
        pieces.append(report)

    for (report, _), piece in zip(whole, pieces, strict=True):
        assert (piece.outer_loss, piece.hparams) == (
            report.outer_loss,
            report.hparams,
        )


def test_it_charges_what_it_said():
    task = Quadratic()
    run = within(task, steps=3)
    start = run.begin(run.coordinates.start())
    rungs = (5, 11, 20)
    total = 0.0
    charges = run.charges(rungs)
    for (report, _), charge in zip(run.reports(start, rungs), charges, strict=True):
        total += charge
        assert report.gradient_evals == pytest.approx(total)
