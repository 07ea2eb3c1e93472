"""Ranks against the worked example of Demšar (2006), table 6 and section 3.2."""

import numpy as np
import pandas as pd
import pytest

from raymeta.analysis import mean_ranks, task_scores
from raymeta.analysis.tables.ranks import cliques, critical_difference

INF = np.inf
# Ranks of four classifiers on 14 data sets: their ranks are these again.
DEMSAR = pd.DataFrame(
    {
        "C4.5": [4, 1, 4, 4, 4, 1, 3, 2.5, 4, 2.5, 4, 3, 4, 3],
        "C4.5+m": [3, 2, 1, 1, 2, 2.5, 2, 2.5, 3, 2.5, 2.5, 2, 1, 1],
        "C4.5+cf": [2, 3, 2, 3, 3, 4, 4, 4, 2, 2.5, 1, 4, 2, 4],
        "C4.5+m+cf": [1, 4, 3, 2, 1, 2.5, 1, 1, 1, 2.5, 2.5, 1, 3, 2],
    }
)


def test_mean_ranks_of_demsars_example():
    ranks = mean_ranks(DEMSAR)
    expected = {"C4.5+m+cf": 1.964, "C4.5+m": 2.0, "C4.5+cf": 2.893, "C4.5": 3.143}
    assert list(ranks.mean.index) == list(expected)
    assert ranks.mean.to_dict() == pytest.approx(expected, abs=5e-4)
    assert ranks.tasks == 14


def test_friedman_of_demsars_example():
    # The paper's 9.28 is without the correction for ties, which divides by
    # 1 - Σ(t³ - t) / (N k (k² - 1)): three pairs, one row of four, and one pair more.
    ties = 3 * (2**3 - 2) + (4**3 - 4)
    uncorrected = mean_ranks(DEMSAR).statistic * (1 - ties / (14 * 4 * 15))
    assert uncorrected == pytest.approx(9.28, abs=0.005)


@pytest.mark.parametrize(("level", "expected"), [(0.05, 1.25), (0.10, 1.12)])
def test_nemenyi_of_demsars_example(level, expected):
    assert critical_difference(4, 14, level=level) == pytest.approx(expected, abs=5e-3)


@pytest.mark.parametrize(
    ("methods", "q"), [(2, 1.960), (3, 2.343), (4, 2.569), (6, 2.850), (10, 3.164)]
)
def test_critical_values_of_demsars_table_5a(methods, q):
    tasks = methods * (methods + 1) / 6  # the root is 1
    assert critical_difference(methods, tasks) == pytest.approx(q, abs=1e-3)


def test_cliques_of_demsars_figure_1a():
    assert mean_ranks(DEMSAR, level=0.10).cliques == [
        ["C4.5+m+cf", "C4.5+m", "C4.5+cf"],
        ["C4.5+cf", "C4.5"],
    ]


def test_no_clique_lies_within_another():
    ranks = pd.Series({"a": 1.0, "b": 1.5, "c": 3.0, "d": 5.0})
    assert cliques(ranks, 2.0) == [["a", "b", "c"], ["c", "d"]]
    assert cliques(ranks, 4.0) == [["a", "b", "c", "d"]]
    assert cliques(ranks, 0.4) == []


def test_full_agreement_has_the_largest_statistic():
    ranks = mean_ranks(pd.DataFrame([[1.0, 2, 3]] * 5, columns=list("abc")))
    assert ranks.statistic == pytest.approx(5 * (3 - 1))
    assert ranks.p_value == pytest.approx(np.exp(-5))  # χ² of two degrees of freedom


def test_a_method_that_missed_a_task_is_left_out_and_one_without_value_is_last(report):
    rows = [
        *(report("tpe", seed, 10, 0.5, task="a") for seed in range(2)),
        *(report("tpe", seed, 10, 0.5, task="b") for seed in range(2)),
        *(report("asha", seed, 10, 0.4, task="a") for seed in range(2)),
        *(report("random", seed, 10, np.nan, task="a") for seed in range(2)),
        *(report("random", seed, 10, 0.3, task="b") for seed in range(2)),
    ]
    scores = task_scores(pd.DataFrame(rows))
    assert scores.to_dict() == {
        "tpe": {"a": 0.5, "b": 0.5},
        "random": {"a": INF, "b": 0.3},
    }
    with pytest.raises(ValueError, match="some are missing"):
        mean_ranks(scores.replace(INF, np.nan))
