"""Anybody's Ray Tune results as the tidy frame of a comparison."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from raymeta.analysis.frames import BLACKBOX

PREFIX = "config/"
STEP = "training_iteration"


def from_result_grid(
    grid: Iterable[Any],
    metric: str,
    *,
    mode: str = "min",
    task: str = "task",
    method: str = "tune",
    family: str = BLACKBOX,
    seed: int = 0,
    cost: str | float = 1.0,
    horizon: int | None = None,
) -> pd.DataFrame:
    """Turn what `Tuner.fit` returned into the frame that all tables and figures take.

    Frames of several runs (methods, seeds, tasks) are joined with `pandas.concat`.
    Reports of concurrent trials are put in the order of their `timestamp`.

    Args:
        grid: A Ray Tune `ResultGrid`, or a list of its `metrics_dataframe`s.
        metric: The column to be compared: a validation loss.
        mode: `min`, or `max` for a metric whose negative is the loss.
        task: The name of what was tuned.
        method: The name of the search.
        family: `black-box` or `hypergradient`.
        seed: Equal seeds of two methods are compared as a pair.
        cost: Gradient evaluations per training iteration, or the column that adds them
            up within a trial.
        horizon: Training iterations of a full run: only the values of such count. By
            default the most that any trial did.

    Returns:
        One row per report and one final row, with `REQUIRED_COLUMNS` and `hp/…`.

    Raises:
        ValueError: `mode` is another word, nothing was reported, or no trial reported
            the metric or the cost.
    """
    if mode not in ("min", "max"):
        raise ValueError(f"mode must be 'min' or 'max', but got {mode!r}")
    trials = [_trial(number, result) for number, result in enumerate(grid)]
    rows = pd.concat(trials, ignore_index=True) if trials else pd.DataFrame()
    wanted = [metric, STEP, *([cost] if isinstance(cost, str) else [])]
    if missing := [name for name in wanted if name not in rows]:
        raise ValueError(
            f"a trial's reports need the columns {', '.join(wanted)}, but no trial has "
            f"{', '.join(missing)}: pass what Tuner.fit returned, and its metric"
        )
    if "timestamp" in rows:
        rows = rows.sort_values("timestamp", kind="stable", ignore_index=True)
    rows[STEP] = rows[STEP].fillna(0)
    spent = rows[cost] if isinstance(cost, str) else rows[STEP] * cost
    full = rows[STEP] >= (rows[STEP].max() if horizon is None else horizon)
    loss = rows[metric] if mode == "min" else -rows[metric]
    failed = rows["failure"] != ""
    counts = full & np.isfinite(loss) & ~failed
    names = [name for name in rows if str(name).startswith(PREFIX)]
    columns = {
        "task": task,
        "method": method,
        "family": family,
        "seed": seed,
        "trial": rows["trial"],
        "outer_step": rows.groupby("trial").cumcount() + 1,
        "inner_steps": rows[STEP].astype(int),
        "gradient_evals": _over_trials(rows, spent),
        "wall_s": _over_trials(rows, rows.get("time_total_s", rows[STEP] * np.nan)),
        "outer_loss": loss,
        "best_outer_loss": loss.where(counts).cummin().ffill(),
        "status": np.select([failed, full], ["failed", "complete"], "running"),
        "failure": rows["failure"],
        **{f"hp/{name.removeprefix(PREFIX)}": rows[name] for name in names},
    }
    frame = pd.DataFrame(columns)
    best = loss.where(counts).idxmin() if counts.any() else frame.index[-1]
    totals = frame[["gradient_evals", "wall_s", "best_outer_loss"]].iloc[-1]
    final = frame.loc[[best]].assign(status="final", failure="", **totals)
    return pd.concat([frame, final], ignore_index=True)


def _trial(number: int, result: Any) -> pd.DataFrame:
    """One trial's reports; its error, if it has one, in a row of its own."""
    if isinstance(result, pd.DataFrame):
        return result.assign(trial=number, failure="")
    reports = result.metrics_dataframe
    reports = pd.DataFrame() if reports is None else reports
    reports = reports.assign(trial=number, failure="")
    if result.error is None:
        return reports
    failure = str(result.error).strip().splitlines() or [type(result.error).__name__]
    end = reports.tail(1).drop(columns=["trial", "failure"]).to_dict("records")
    row = {**(end[0] if end else {}), "trial": number, "failure": failure[-1]}
    return pd.concat([reports, pd.DataFrame([row])], ignore_index=True)


def _over_trials(rows: pd.DataFrame, within: pd.Series) -> pd.Series:
    """Add up over all trials what each trial has added up within itself."""
    filled = within.groupby(rows["trial"]).ffill().fillna(0.0)
    before = filled.groupby(rows["trial"]).shift(fill_value=0.0)
    return (filled - before).cumsum()
