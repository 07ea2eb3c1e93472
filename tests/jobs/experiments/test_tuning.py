"""The tuning list: its tasks, and its table from frames whose numbers are known."""

import math

import pandas as pd
import pytest

from jobs.experiments.tuning.compare import table
from jobs.experiments.tuning.diagnosed import correlations, measured, success
from jobs.experiments.tuning.tasks import TUNING
from raymeta.outer.diagnose import diagnose
from raymeta.outer.report import plain_run
from raymeta.tasks.base import check_task


def study(task, method, seed, losses, family="black-box"):
    """A study that ends a run every 10 evaluations, and its final row."""
    rows, best = [], math.inf
    for number, loss in enumerate(losses, start=1):
        best = min(best, loss)
        row = {
            **{"task": task, "method": method, "family": family, "seed": seed},
            **{"gradient_evals": 10.0 * number, "outer_loss": loss},
            **{"best_outer_loss": best, "status": "complete"},
        }
        rows.append(row)
    return [*rows, row | {"status": "final", "outer_loss": best}]


def test_shares_are_of_tasks_and_seeds():
    frame = pd.DataFrame(
        [
            *study("a", "auto", 0, [5.0, 2.0, 1.0]),
            *study("a", "tpe", 0, [4.0, 3.0, 3.0, 3.0, 3.0, 2.0]),  # after 60; auto 20
            *study("b", "auto", 0, [5.0, 4.02]),
            *study("b", "tpe", 0, [4.0, 4.5]),  # .5 % worse, and never there
            *study("b", "auto", 1, [5.0, 3.0]),
            *study("b", "tpe", 1, [3.0]),  # the same, later
            *study("b", "asha", 1, [2.0]),
        ]
    )
    rows = table(frame, "auto").set_index("against")
    tpe, asha = rows.loc["tpe"], rows.loc["asha"]
    assert (tpe.cells, asha.cells) == (3, 1)
    assert tpe.not_worse == pytest.approx(2 / 3)
    assert tpe.not_worse_by_1_percent == 1
    assert tpe.sooner == tpe.in_a_third == pytest.approx(1 / 3)
    assert (asha.not_worse, asha.sooner) == (0, 0)
    assert "best tuning-free" not in rows.index


def test_the_best_tuning_free_run_is_another_one_in_each_task_and_seed():
    one = {"family": "tuning-free"}
    frame = pd.DataFrame(
        [
            *study("a", "auto", 0, [5.0, 2.0]),
            *study("a", "adamw_wsd", 0, [1.0], **one),
            *study("a", "adam_cosine", 0, [3.0], **one),
            *study("b", "auto", 0, [2.0]),
            *study("b", "adam_cosine", 0, [3.0], **one),
            *study("c", "auto", 0, [2.0]),  # where none fits
        ]
    )
    rows = table(frame, "auto").set_index("against")
    assert rows.loc["best tuning-free", "cells"] == 2
    assert rows.loc["best tuning-free", "not_worse"] == 0.5
    assert rows.loc["adam_cosine", "not_worse"] == 1
    assert rows.loc["adam_cosine", "sooner"] == 0.5


@pytest.mark.parametrize("name", sorted(TUNING))
def test_a_task_trains_from_its_start(name):
    """To a finite outer loss; from a bad start to a worse one."""
    task = TUNING[name]
    check_task(task)
    problem = task.sample(0)
    _, loss = plain_run(problem, task.space.initial(), task.horizon)
    assert math.isfinite(loss)
    if name.endswith("-bad"):
        usual = TUNING[name.removesuffix("-bad")]
        assert set(usual.space) == set(task.space)
        _, better = plain_run(problem, usual.space.initial(), task.horizon)
        assert better < loss
    assert task.budget == 30 * (task.horizon + problem.outer_cost / 3)


def test_success_is_by_how_much_a_descent_ends_below_tpe():
    frame = pd.DataFrame(
        [
            *study("a", "long_term", 0, [4.0, 1.0]),
            *study("a", "tpe", 0, [4.0, 2.0]),
            *study("a", "long_term", 1, [8.0, 2.0]),
            *study("a", "tpe", 1, [8.0, 2.0]),
            *study("b", "long_term", 0, [1.0, 0.0]),
            *study("b", "tpe", 0, [1.0, 1e-9]),  # as good
            *study("c", "long_term", 0, [1.0]),  # without the other
        ]
    )
    found = success(frame)
    assert list(found.index) == ["a", "b"]
    assert found.success.tolist() == pytest.approx([math.log(2) / 2, 0.0])
    assert found.progress.tolist() == pytest.approx([math.log(4), math.log(1e6)])


def test_ranks_of_a_diagnosis_are_compared_with_those_of_success():
    names = ["wine", "graph-bad", "rosenbrock"]
    measures = measured(diagnose(TUNING[name], seed=0) for name in names)
    assert (measures.agreement <= 1).all()
    order = measures.score.rank()
    outcome = pd.DataFrame({"success": order, "progress": -order})
    found = correlations(measures, outcome)
    assert found.loc["score"].tolist() == pytest.approx([1.0, -1.0])
