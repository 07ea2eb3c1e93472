"""Surfaces and curves against closed forms, and against the runs they repeat."""

import math
from dataclasses import replace

import numpy as np
import pytest

from raymeta import tasks
from raymeta.hypergrad import Reverse
from raymeta.outer.landscape import learning_curves, loss_surface
from raymeta.outer.optimize import optimize
from raymeta.outer.replay import loss_curve
from raymeta.space import Choice, Positive, Space
from raymeta.tasks import Quadratic


@pytest.mark.usefixtures("float64")
def test_the_surface_of_the_quadratic_is_the_closed_form():
    task = Quadratic(horizon=7)
    rows = loss_surface(task, ("momentum", "lr"), seed=3, points=4)
    last = rows[rows["inner_steps"] == 7]
    assert len(last) == 16
    start = task.start(3)
    for row in last.to_dict("records"):
        truth, _ = task.closed_form(row["hp/lr"], row["hp/momentum"], 7, start)
        assert row["outer_loss"] == pytest.approx(truth, rel=1e-9)


def test_the_grid_runs_from_bound_to_bound_as_black_box_search_samples():
    rows = loss_surface(tasks.get("quadratic"), ("lr", "momentum"), points=3)
    assert sorted(set(rows["hp/lr"])) == pytest.approx([1e-3, 10**-1.75, 10**-0.5])
    assert sorted(set(rows["hp/momentum"])) == pytest.approx([0, 0.495, 0.99])
    assert set(rows["inner_steps"]) == set(range(21))
    assert set(rows["task"]) == {"quadratic"}


def test_curves_are_those_of_plain_training():
    task = tasks.get("quadratic")
    flat = {"lr": 0.05, "momentum": 0.6}
    rows = learning_curves(task, [task.space.point(task.space.initial()), flat])
    curve = loss_curve(task.sample(0), task.space, [(task.horizon, flat)])
    assert rows.loc[rows["outer_step"] == 1, "outer_loss"].tolist() == curve


def test_a_long_run_is_looked_at_about_forty_times():
    task = Quadratic(horizon=1003)
    rows = learning_curves(task, [{"lr": 1e-3, "momentum": 0.1}])
    assert rows["inner_steps"].tolist() == [*range(0, 1003, 25), 1003]


def test_a_run_of_the_frame_is_repeated_to_the_bit():
    task = tasks.get("quadratic")
    result = optimize(task, Reverse(task.horizon), budget=500, seed=2)
    frame = result.frame
    row = frame[(frame["status"] == "complete")].iloc[-1]
    flat = {name: row[f"hp/{name}"] for name in task.space.flat_domains()}
    again = learning_curves(task, [flat], seed=2)
    assert again["outer_loss"].iloc[-1] == row["outer_loss"]


def test_a_diverged_run_stays_in_the_surface():
    task = Quadratic(eigenvalues=(1e30,), horizon=5)
    rows = loss_surface(task, ("lr", "momentum"), points=2)
    assert not math.isfinite(rows["outer_loss"].iloc[-1])


class Chooser(Quadratic):
    """A quadratic whose learning rate has a factor to choose."""

    @property
    def space(self):
        return Space(
            lr=Positive(0.01, low=1e-3, high=0.1),
            momentum=Positive(0.5, low=0.1, high=0.9),
            factor=Choice((1, 4)),
        )

    def sample(self, seed):
        problem = super().sample(seed)

        def scaled(function):
            return lambda state, hparams, *rest: function(
                state, {**hparams, "lr": hparams["lr"] * hparams["factor"]}, *rest
            )

        return replace(problem, step=scaled(problem.step))


@pytest.mark.parametrize("held", ["4", np.str_("4"), np.float64(4.0)], ids=repr)
def test_options_are_found_however_a_frame_holds_them(held):
    chosen = {"lr": 0.01, "momentum": 0.5, "factor": held}
    seen = learning_curves(Chooser(), [chosen])
    plain = learning_curves(Quadratic(), [{"lr": 0.04, "momentum": 0.5}])
    assert seen["outer_loss"].tolist() == plain["outer_loss"].tolist()


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (("lr", "moment"), {}, "unknown hyperparameter 'moment': did you mean"),
        (("lr", "lr"), {}, "two different continuous hyperparameters, but got lr, lr"),
        (("lr", "factor"), {}, "two different continuous hyperparameters"),
        (("lr", "momentum"), {"points": 1}, "at least 2 points a side, but got 1"),
    ],
)
def test_what_is_no_surface_is_refused(names, options, message):
    with pytest.raises(ValueError, match=message):
        loss_surface(Chooser(), names, **options)


def test_progress_counts_the_runs():
    told = []
    loss_surface(
        Quadratic(horizon=2),
        ("lr", "momentum"),
        points=2,
        progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
