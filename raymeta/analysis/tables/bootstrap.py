"""Paired bootstrap: how far two methods' final losses are apart, and how surely."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from raymeta.analysis.tables.frames import studies

RESAMPLES = 9999
COLUMNS = [
    *("task", "method", "reference", "seeds", "difference", "low", "high", "better")
]


class Interval(NamedTuple):
    """A mean and its confidence interval; NaN where there are too few values."""

    mean: float
    low: float
    high: float


def bootstrap_mean(
    values: np.ndarray,
    *,
    level: float = 0.95,
    method: str = "BCa",
    seed: int = 0,
) -> Interval:
    """Return a mean with its bootstrap interval (Efron 1987).

    Args:
        values: [n] float.
        level: confidence level. Few values make the interval too narrow: of n normal
            values, one of 95 % covers the mean in about 93 % of cases for n = 20, in 84
            % for n = 5, in 75 % for n = 3.
        method: `BCa` (bias-corrected and accelerated) or `percentile`.
        seed: seeds the resampling: the same values have the same interval.

    Returns:
        The mean and its interval: a point when all values are equal, NaN to NaN for
        fewer than two.
    """
    values = np.asarray(values, float)
    mean = float(values.mean()) if len(values) else np.nan
    if len(values) < 2:
        return Interval(mean, np.nan, np.nan)
    if np.ptp(values) == 0:
        return Interval(mean, mean, mean)
    found = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=level,
        method=method,
        rng=np.random.default_rng(seed),
    )
    low, high = found.confidence_interval
    return Interval(mean, float(low), float(high))


def final_differences(
    frame: pd.DataFrame,
    reference: str | None = None,
    *,
    level: float = 0.95,
    method: str = "BCa",
    seed: int = 0,
) -> pd.DataFrame:
    """Compare every method's final validation loss with a reference's, seed by seed.

    Differences are taken within seeds, which are the same problem for both methods;
    then their mean is bootstrapped. Seeds in which either has no value are left out,
    and counted.

    Args:
        frame: one row per report.
        reference: A method; by default, in each task, the one of lowest median final
            loss.
        level: see `bootstrap_mean`.
        method: see `bootstrap_mean`.
        seed: see `bootstrap_mean`.

    Returns:
        One row per task and method other than the reference: `task`, `method`,
        `reference`, `seeds` (paired ones), `difference` (mean over seeds of the
        method's loss minus the reference's), `low`, `high`, `better` (seeds in which
        the method's loss is lower).

    Raises:
        ValueError: no task has the reference, or a required column is missing.
    """
    table = studies(frame)
    if reference is not None and reference not in set(table["method"]):
        known = ", ".join(sorted(table["method"].unique())) or "none"
        raise ValueError(
            f"a reference must be a method of the frame, but got {reference!r}: pass "
            f"one of {known}"
        )
    rows = []
    for task, group in table.groupby("task"):
        losses = group.pivot(index="seed", columns="method", values="best_outer_loss")
        best = reference or _best(losses)
        if best not in losses:
            continue
        for name in losses.columns.drop(best):
            apart = (losses[name] - losses[best]).dropna().to_numpy()
            interval = bootstrap_mean(apart, level=level, method=method, seed=seed)
            better = int((apart < 0).sum())
            rows.append((task, name, best, len(apart), *interval, better))
    return pd.DataFrame(rows, columns=COLUMNS)


def _best(losses: pd.DataFrame) -> str:
    """The method of lowest median over seeds, a missing value behind all others."""
    return str(losses.fillna(np.inf).median().idxmin())
