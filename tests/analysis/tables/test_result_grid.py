"""A ResultGrid is what has `metrics_dataframe`, `error`: analysis imports no Ray."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from raymeta.analysis import (
    draw_anytime,
    draw_trajectories,
    from_result_grid,
    ranking,
)
from raymeta.results.schema import REQUIRED_COLUMNS

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
    with pytest.warns(UserWarning, match="^2 of 4 trials failed.*'out of memory'$"):
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


def failing(text):
    return SimpleNamespace(metrics_dataframe=None, error=RuntimeError(text))


TRACE = "ray::train()\n  File 'x.py', line 3\n    train()\nValueError: boom"


@pytest.mark.parametrize("trace", [TRACE, f"{TRACE}\nof two lines\n  or more"])
def test_a_grid_of_failures_gives_the_first_one(trace):
    with pytest.raises(ValueError, match="all 2 failed") as error:
        from_result_grid([failing(trace), failing("other")], "loss")
    assert str(error.value) == (
        "a comparison needs a trial that reports 'loss', but all 2 failed, the first "
        "by 'ValueError: boom': repair the trainable"
    )


def test_options_of_trials_that_failed_at_once_are_as_they_were():
    results = [failing("boom") for _ in range(2)]
    for result, kind in zip(results, (1, "auto"), strict=True):
        result.config = {"kind": kind}
    with pytest.warns(UserWarning, match="^2 of 4 trials failed"):
        frame = from_result_grid([*grid(), *results], "loss")
    kinds = frame[frame["status"] == "failed"]["hp/kind"]
    assert kinds.tolist() == ["1", "auto"]


def test_trials_without_a_word_are_counted():
    silent = SimpleNamespace(metrics_dataframe=None, error=None)
    with pytest.warns(UserWarning, match="^1 of 3 trials reported nothing$"):
        frame = from_result_grid([*grid(), silent], "loss")
    assert frame["trial"].max() == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"metric": "los"},
            r"unknown metric 'los': did you mean 'loss'\? available: l",
        ),
        ({"metric": "lr"}, "unknown metric 'lr': available: loss$"),
        ({"metric": None}, "unknown metric 'None': available: loss$"),
        ({"metric": "loss", "family": "blackbox"}, "did you mean 'black-box'"),
    ],
)
def test_what_is_misspelt_is_said(options, message):
    with pytest.raises(ValueError, match=message):
        from_result_grid(grid(), **options)


@pytest.mark.parametrize(
    "other", [pd.DataFrame({"loss": [1.0]}), ["loss"], {"a": 1}, object()], ids=type
)
def test_something_else_than_a_grid_is_refused(other):
    with pytest.raises(ValueError, match="pass the ResultGrid itself"):
        from_result_grid(other, "loss")


def test_a_metric_that_is_no_number_is_refused():
    one = trial([0.5, 0.4], [1, 2], 0.1)
    one["loss"] = pd.Series(["a/b", 0.4], dtype=object)
    with pytest.raises(ValueError, match="reported loss='a/b'"):
        from_result_grid([one], "loss")


def test_tensors_and_missing_values_of_a_metric_are_numbers():
    one = trial([0.5, 0.4, 0.3], [1, 2, 3], 0.1)
    values = [np.float32(0.5), None, np.array(0.25)]
    one["loss"] = pd.Series(values, dtype=object)
    frame = from_result_grid([one], "loss")
    assert frame["outer_loss"].tolist()[::2] == [0.5, 0.25]
    assert np.isnan(frame["outer_loss"][1])


class Odd:
    def __str__(self):
        return "something\n" + "very " * 30 + "long"


def test_hyperparameters_of_any_kind_fit_a_file_and_an_axis(tmp_path):
    """Mixed types, options that not every trial has, arrays, lists, objects."""
    kinds = {
        "config/mixed": (0.1, "auto", 3),
        "config/number": (1, np.float32(2.5), np.array(3)),
        "config/flag": (True, False, True),
        "config/opt/lr": (0.1, None, 0.3),
        "config/list": ([1, 2], (3,), Odd()),
    }
    results = []
    for number in range(3):
        table = trial([0.5 - number / 10], [number], 0.1)
        for name, values in kinds.items():
            table[name] = pd.Series([values[number]], dtype=object)
        results.append(table)

    frame = from_result_grid(results, "loss")
    frame.to_parquet(tmp_path / "frame.parquet")

    last = frame.iloc[:3]
    assert last["hp/mixed"].tolist() == ["0.1", "auto", "3"]
    assert last["hp/number"].tolist() == [1.0, 2.5, 3.0]
    assert last["hp/flag"].tolist() == ["True", "False", "True"]
    assert last["hp/opt/lr"].tolist()[::2] == [0.1, 0.3]
    assert last["hp/opt/lr"].isna().tolist() == [False, True, False]
    assert last["hp/list"].tolist()[:2] == ["[1, 2]", "(3,)"]
    assert len(last["hp/list"][2]) == 60
    for x in ("gradient_evals", "wall_s"):
        draw_anytime(frame, x)
    draw_trajectories(frame, "task")


def test_a_nested_configuration_is_taken_where_reports_do_not_have_it():
    table = trial([0.5], [1], 0.1).drop(columns="config/lr")
    config = {"opt": {"lr": 0.1, "kind": "adam"}, "width": 3}
    result = SimpleNamespace(metrics_dataframe=table, error=None, config=config)
    frame = from_result_grid([result], "loss")
    names = ["hp/opt/lr", "hp/opt/kind", "hp/width"]
    assert frame[names].iloc[0].tolist() == [0.1, "adam", 3]
