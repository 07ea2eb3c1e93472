"""Performance profiles against the definition, by hand."""

import pandas as pd
import pytest

from raymeta.analysis import performance_profile


def test_shares_of_problems_within_a_ratio_of_the_fastest(report):
    # Two tasks, target .3: a needs 10 and 40, b 20 and 10, c 40 and never.
    needed = {"a": (10, 40), "b": (20, 10), "c": (40, None)}
    rows = [
        report(method, 0, at or 50, 0.3 if at else 0.9, task=task)
        for method, each in needed.items()
        for task, at in zip(("one", "two"), each, strict=True)
    ]
    profile = performance_profile(pd.DataFrame(rows), 0.3)
    steps = {
        m: list(zip(t.ratio, t.share, strict=True))
        for m, t in profile.groupby("method")
    }
    assert steps == {
        "a": [(1.0, 0.5), (4.0, 1.0)],
        "b": [(1.0, 0.5), (2.0, 1.0)],
        "c": [(1.0, 0.0), (4.0, 0.5)],
    }
    assert list(dict.fromkeys(profile.method)) == ["b", "a", "c"]


def test_the_target_is_that_of_black_box_search(frame):
    # forward reaches tpe's end after 60 of 200 evaluations in seed 0, never in seed 1.
    profile = performance_profile(frame)
    steps = {
        m: list(zip(t.ratio, t.share, strict=True))
        for m, t in profile.groupby("method")
    }
    assert steps["forward"] == [(1.0, 0.5)]
    assert steps["tpe"] == [(1.0, 0.5), (pytest.approx(200 / 60), 1.0)]
    assert steps["random"] == [(1.0, 0.0)]


def test_problems_that_none_solves_count(frame):
    assert set(performance_profile(frame, 0.01)["share"]) == {0.0}
    assert performance_profile(frame.iloc[:0]).empty


def test_only_problems_that_there_are_count(report):
    # One task has two seeds, the other one: three problems, not four.
    rows = [
        report("a", seed, 10, 0.3, task=task)
        for task, seed in (("one", 0), ("one", 1), ("two", 0))
    ]
    profile = performance_profile(pd.DataFrame(rows), 0.3)
    assert profile[["ratio", "share"]].to_numpy().tolist() == [[1.0, 1.0]]
