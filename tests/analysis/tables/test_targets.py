import numpy as np
import pandas as pd
import pytest

from raymeta.analysis import target_summary, to_target

INF = np.inf


def test_targets_of_the_best_black_box_method(frame):
    table = to_target(frame).set_index(["method", "seed"])
    assert table.loc[("forward", 0), ["target", "needed", "reached"]].tolist() == [
        *(0.3, 60, True)
    ]
    late = table.loc[("forward", 1)]
    assert (late["needed"], late["spent"], late["reached"]) == (INF, 130, False)
    summary = target_summary(to_target(frame)).set_index("method")
    forward = summary.loc["forward"]
    assert (forward["reached"], forward["censored"]) == (1, 1)
    assert forward["median"] == INF
    assert forward["expected"] == 60 + 130  # one failure costs all that it spent
    assert summary.loc["tpe", ["median", "expected"]].tolist() == [150, 150]
    assert summary.loc["random", ["median", "expected"]].tolist() == [INF, INF]


def test_targets_may_be_given(frame):
    both = pd.concat([frame, frame.assign(task="other")])
    table = to_target(both, 0.45)
    assert set(table["target"]) == {0.45}
    assert len(table) == 12
    forward = table[(table["method"] == "forward") & (table["task"] == "other")]
    assert forward["needed"].tolist() == [60, 120]
    only = to_target(both, {"other": 0.45})
    assert set(only["task"]) == {"other"}
    seconds = to_target(both, {"other": 0.45}, x="wall_s")
    assert seconds["needed"].tolist() == [n / 10 for n in only["needed"]]


def test_the_expected_running_time_of_restarts(report):
    # Four seeds, three arrive: (10 + 20 + 30 + 100) / 3, as of restarts until success.
    rows = [report("tpe", seed, at, 0.1) for seed, at in enumerate([10, 20, 30])]
    rows.append(report("tpe", 3, 100, 0.9))
    (row,) = target_summary(to_target(pd.DataFrame(rows), 0.5)).itertuples()
    assert row.expected == pytest.approx(160 / 3)
    assert row.median == 25
    assert (row.reached, row.censored) == (3, 1)


def test_an_empty_frame_has_no_targets(frame):
    assert len(target_summary(to_target(frame.iloc[:0]))) == 0
