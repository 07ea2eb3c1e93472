import re

import numpy as np
import pandas as pd
import pytest

from raymeta.analysis import REQUIRED_COLUMNS, blackbox_target, read
from raymeta.analysis.tables.frames import seed_quantile, staircase, studies

NAN, INF = np.nan, np.inf


def test_staircase_sorts_reports_and_keeps_improvements_only(report):
    rows = pd.DataFrame(
        [
            report("tpe", 0, 40, 0.5),
            report("tpe", 0, 10, NAN, status="running"),
            report("tpe", 0, 20, 0.5),
            report("tpe", 0, 30, 0.7),  # worse: the best so far stands
            report("tpe", 0, 60, 0.2),
            report("tpe", 0, 60, 0.1),  # twice at one place: the lower counts
            report("tpe", 0, 90, NAN, status="failed"),
        ]
    )
    steps = staircase(rows)
    assert steps.x.tolist() == [20, 60]
    assert steps.value.tolist() == [0.5, 0.1]
    assert (steps.end, steps.final, steps.finished) == (90, 0.1, False)


def test_staircase_is_right_continuous_and_empty_before_its_first_value(report):
    rows = [report("tpe", 0, 20, 0.5), report("tpe", 0, 60, 0.1)]
    steps = staircase(pd.DataFrame(rows))
    grid = np.array([0, 19.9, 20, 59.9, 60, 1e9])
    np.testing.assert_array_equal(steps.at(grid), [NAN, NAN, 0.5, 0.5, 0.1, 0.1])


@pytest.mark.parametrize(
    ("target", "evals"), [(0.5, 20), (0.499, 60), (0.1, 60), (0.09, INF), (9, 20)]
)
def test_staircase_reaches_a_target_at_its_first_value_not_above(report, target, evals):
    rows = [report("tpe", 0, 20, 0.5), report("tpe", 0, 60, 0.1)]
    assert staircase(pd.DataFrame(rows)).reaches(target) == evals


def test_a_cell_without_a_value_has_an_empty_staircase(report):
    steps = staircase(pd.DataFrame([report("tpe", 0, 20, NAN, status="failed")]))
    assert steps.reaches(1.0) == INF
    assert np.isnan(steps.final)
    np.testing.assert_array_equal(steps.at(np.array([20.0])), [NAN])


def test_staircase_runs_over_seconds_too(report):
    rows = pd.DataFrame([report("tpe", 0, 20, 0.5, wall_s=7.5)])
    assert staircase(rows, "wall_s").x.tolist() == [7.5]


@pytest.mark.parametrize("q", [0.0, 0.1, 0.25, 0.5, 0.75, 1.0])
def test_seed_quantile_agrees_with_numpy_when_every_seed_has_a_value(q):
    values = np.random.default_rng(0).normal(size=(6, 5))
    np.testing.assert_allclose(seed_quantile(values, q), np.quantile(values, q, axis=0))


@pytest.mark.parametrize(
    ("values", "median"),
    [
        ([3, NAN, 1, NAN, 2], 3),  # in order: 1, 2, 3, two missing
        ([3, NAN, 1, NAN, NAN], NAN),
        ([3, NAN], 3),
        ([3, 1, NAN, NAN], 3),
        ([4], 4),
    ],
)
def test_a_missing_seed_ranks_behind_all_others(values, median):
    np.testing.assert_equal(float(seed_quantile(values, 0.5)), median)


def test_blackbox_target_is_each_seeds_loss_of_the_method_with_the_best_median(frame):
    # tpe (.35) beats random (.50), although forward is better in seed 0
    expected = pd.DataFrame(
        {
            "task": ["digits", "digits"],
            "seed": [0, 1],
            "method": ["tpe", "tpe"],
            "target": [0.3, 0.4],
        }
    )
    pd.testing.assert_frame_equal(blackbox_target(frame), expected, check_dtype=False)


def test_blackbox_target_breaks_ties_by_name(report):
    rows = [report("tpe", 0, 10, 0.5), report("asha", 0, 90, 0.5)]
    assert blackbox_target(pd.DataFrame(rows))["method"].tolist() == ["asha"]


def test_blackbox_target_skips_methods_and_seeds_without_a_value(report):
    rows = [
        report("tpe", 0, 10, 0.1),
        report("tpe", 1, 10, NAN, status="running"),
        report("tpe", 2, 10, NAN, status="running"),
        report("random", 0, 10, 0.5),
        report("random", 1, 10, 0.6),
        report("random", 2, 10, NAN, status="running"),
        report("forward", 0, 10, 0.0),
    ]
    targets = blackbox_target(pd.DataFrame(rows))
    assert targets["method"].tolist() == ["random", "random"]
    assert targets[["seed", "target"]].to_numpy().tolist() == [[0, 0.5], [1, 0.6]]


@pytest.mark.parametrize("family", ["hypergradient", "black-box"])
def test_blackbox_target_of_nothing_is_empty(frame, family):
    rows = frame[frame["family"] == "hypergradient"]
    rows = rows if family == "hypergradient" else frame.iloc[:0]
    targets = blackbox_target(rows)
    assert targets.columns.tolist() == ["task", "seed", "method", "target"]
    assert len(targets) == 0


def test_cells_are_summarised_once_each(frame):
    table = studies(frame.sample(frac=1, random_state=1))
    assert len(table) == 6
    losses = table.set_index(["method", "seed"])["best_outer_loss"]
    assert losses.to_dict() == {
        ("forward", 0): 0.2,
        ("forward", 1): 0.45,
        ("random", 0): 0.5,
        ("random", 1): 0.5,
        ("tpe", 0): 0.3,
        ("tpe", 1): 0.4,
    }


def test_read_takes_the_file_and_its_folder(frame, tmp_path):
    frame.to_parquet(tmp_path / "frame.parquet")
    for path in (tmp_path, str(tmp_path / "frame.parquet")):
        pd.testing.assert_frame_equal(read(path), frame)


def test_read_names_the_missing_file(tmp_path):
    missing = re.escape(str(tmp_path / "frame.parquet"))
    with pytest.raises(ValueError, match=rf"{missing} does not exist: pass the folder"):
        read(tmp_path)


def test_read_names_an_unreadable_file_in_one_line(tmp_path):
    file = tmp_path / "cut.parquet"
    file.write_bytes(b"PAR1 and then the disk was full")
    with pytest.raises(
        ValueError, match=r"cut\.parquet cannot be used, .*: delete it"
    ) as caught:
        read(file)
    assert "\n" not in str(caught.value)


def test_read_names_missing_columns(frame, tmp_path):
    file = tmp_path / "frame.parquet"
    frame.drop(columns=["wall_s", "status"]).to_parquet(file)
    with pytest.raises(ValueError, match=r"frame\.parquet misses wall_s, status: pass"):
        read(file)


def test_every_required_column_is_required(frame):
    assert set(REQUIRED_COLUMNS) <= set(frame.columns)
    for name in REQUIRED_COLUMNS:
        with pytest.raises(ValueError, match=rf"the frame misses {name}: "):
            blackbox_target(frame.drop(columns=name))
