"""A ResultGrid is what has `metrics_dataframe`, `error`: analysis imports no Ray."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from raymeta.analysis import from_result_grid, ranking
from raymeta.analysis.frames import REQUIRED_COLUMNS

NAN = np.nan


def trial(losses, stamps, lr, **more):
    n = len(losses)
    table = {
        "loss": losses,
        "training_iteration": range(1, n + 1),
        "timestamp": stamps,
        "time_total_s": [0.5 * (i + 1) for i in range(n)],
        "config/lr": lr,
        **more,
    }
    return pd.DataFrame(table)


def grid():
    """Two trials that ran at once; the second was stopped after two of three steps."""
    return [
        SimpleNamespace(
            metrics_dataframe=trial([0.9, 0.5, 0.4], [1, 3, 5], 0.1), error=None
        ),
        SimpleNamespace(metrics_dataframe=trial([0.8, 0.3], [2, 4], 0.2), error=None),
    ]


def test_reports_are_added_up_in_the_order_they_came():
    frame = from_result_grid(grid(), "loss", task="t", method="m", seed=4, cost=10)
    assert set(REQUIRED_COLUMNS) <= set(frame.columns)
    reports = frame[frame["status"] != "final"]
    assert reports["trial"].tolist() == [0, 1, 0, 1, 0]
    assert reports["gradient_evals"].tolist() == [10, 20, 30, 40, 50]
    assert reports["wall_s"].tolist() == [0.5, 1, 1.5, 2, 2.5]
    assert reports["outer_step"].tolist() == [1, 1, 2, 2, 3]
    # Only the full run counts: the stopped trial's .3 does not.
    assert reports["best_outer_loss"].isna().tolist() == [True] * 4 + [False]
    assert frame["hp/lr"].tolist() == [0.1, 0.2, 0.1, 0.2, 0.1, 0.1]
    (row,) = ranking(frame).itertuples()
    assert (row.task, row.method, row.best_outer_loss, row.finished) == (
        "t",
        "m",
        0.4,
        1,
    )


def test_a_horizon_lets_shorter_runs_count():
    frame = from_result_grid(grid(), "loss", horizon=1)
    assert frame["best_outer_loss"].tolist() == [0.9, 0.8, 0.5, 0.3, 0.3, 0.3]
    assert frame["trial"].iloc[-1] == 1


def test_a_metric_to_maximize_and_a_column_of_cost():
    results = [trial([0.2, 0.7], [1, 2], 0.1, passes=[30.0, 90.0])]
    results.append(trial([0.3, 0.6], [3, 4], 0.2, passes=[30.0, 60.0]))
    frame = from_result_grid(results, "loss", mode="max", cost="passes")
    assert frame["gradient_evals"].tolist() == [30, 90, 120, 150, 150]
    assert frame["best_outer_loss"].iloc[-1] == -0.7


def test_trials_that_failed_are_rows():
    broken = SimpleNamespace(
        metrics_dataframe=trial([0.1], [2], 0.3),
        error=RuntimeError("boom\nout of memory"),
    )
    silent = SimpleNamespace(metrics_dataframe=None, error=ValueError("never began"))
    frame = from_result_grid([*grid(), broken, silent], "loss", horizon=1)
    failed = frame[frame["status"] == "failed"].set_index("trial")
    assert failed["failure"].to_dict() == {2: "out of memory", 3: "never began"}
    assert frame["best_outer_loss"].iloc[-1] == 0.1  # reported before it failed
    assert frame["gradient_evals"].max() == 6
    assert ranking(frame)["failed"].tolist() == [2]


def test_a_loss_that_is_not_finite_does_not_count():
    frame = from_result_grid(
        [trial([NAN], [1], 0.1), trial([np.inf], [2], 0.2)], "loss"
    )
    assert frame["best_outer_loss"].isna().all()


@pytest.mark.parametrize(
    ("results", "options", "message"),
    [
        ([], {}, "no trial has loss, training_iteration"),
        ([trial([1.0], [1], 0.1)], {"cost": "passes"}, "no trial has passes"),
        ([trial([1.0], [1], 0.1)], {"mode": "least"}, "but got 'least'"),
    ],
)
def test_what_is_missing_is_named(results, options, message):
    with pytest.raises(ValueError, match=message):
        from_result_grid(results, "loss", **options)
