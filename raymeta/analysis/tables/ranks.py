"""Mean ranks over tasks, and whether they differ by more than chance (Demšar 2006).

"Statistical comparisons of classifiers over multiple data sets", JMLR 7, section 3.2.
N tasks are the blocks and k methods the treatments; seeds of one task are no
independent blocks, so each task contributes its medians over seeds, once.
"""

import math
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from raymeta.analysis.tables.frames import seed_median, studies


class Ranks(NamedTuple):
    """Mean ranks of k methods over N tasks, and their tests.

    Attributes:
        mean: mean rank by method, the best (lowest) first.
        tasks: N.
        statistic: Friedman's χ², corrected for ties; NaN for N < 2 or k < 3.
        p_value: p-value of the Friedman test; NaN likewise. By the χ² distribution,
            which is rough below ten tasks.
        critical_difference: mean ranks that differ by more differ significantly.
        cliques: the largest groups of methods, best first, whose mean ranks do not.
    """

    mean: pd.Series
    tasks: int
    statistic: float
    p_value: float
    critical_difference: float
    cliques: list[list[str]]


def task_scores(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the median final loss, a row per task and a column per method.

    Args:
        frame: one row per report.

    Returns:
        The methods that ran on every task; inf where fewer than half of the seeds have
        a value, so that the method ranks last there.

    Raises:
        ValueError: A required column is missing.
    """
    losses = studies(frame).groupby(["task", "method"])["best_outer_loss"]
    medians = losses.agg(seed_median).fillna(math.inf)
    return medians.unstack("method").dropna(axis="columns")


def mean_ranks(scores: pd.DataFrame, *, level: float = 0.05) -> Ranks:
    """Rank the methods on each task, the lowest score first; average over tasks.

    Args:
        scores: N tasks x k methods, lower is better; equal scores share their mean
            rank.
        level: α of the Nemenyi test.

    Raises:
        ValueError: A score is missing.
    """
    if scores.isna().any(axis=None):
        raise ValueError(
            "ranks need a score for every method on every task, but some are missing: "
            "leave out those methods or tasks"
        )
    tasks, methods = scores.shape
    mean = scores.rank(axis="columns").mean().sort_values(kind="stable")
    statistic = p_value = math.nan
    if tasks >= 2 and methods >= 3 and (scores.nunique(axis="columns") > 1).any():
        found = stats.friedmanchisquare(*scores.to_numpy().T)
        statistic, p_value = float(found.statistic), float(found.pvalue)
    difference = critical_difference(methods, tasks, level=level)
    return Ranks(mean, tasks, statistic, p_value, difference, cliques(mean, difference))


def critical_difference(methods: int, tasks: int, *, level: float = 0.05) -> float:
    r"""Nemenyi's critical difference of mean ranks (Demšar 2006, section 3.2.2).

    $$ CD = q_\alpha \sqrt{\frac{k (k + 1)}{6 N}} $$

    with q_α the studentized range's quantile at infinite degrees of freedom over √2.

    Args:
        methods: k; NaN is returned below 2.
        tasks: N; NaN is returned below 1.
        level: α.
    """
    if methods < 2 or tasks < 1:
        return math.nan
    q = stats.studentized_range.ppf(1 - level, methods, np.inf) / math.sqrt(2)
    return float(q * math.sqrt(methods * (methods + 1) / (6 * tasks)))


def cliques(mean: pd.Series, difference: float) -> list[list[str]]:
    """Return the largest groups whose mean ranks lie within the critical difference.

    Args:
        mean: mean rank by method, increasing.
        difference: the critical difference.

    Returns:
        Groups of at least two methods, none within another, in the order of `mean`.
    """
    ranks, found, reach = mean.to_numpy(float), [], 0
    for first in range(len(ranks)):
        last = int(np.searchsorted(ranks, ranks[first] + difference, side="right"))
        if last > reach and last - first > 1:
            found.append([str(name) for name in mean.index[first:last]])
        reach = max(reach, last)
    return found
