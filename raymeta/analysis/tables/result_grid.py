"""Anybody's Ray Tune results as the tidy frame of a comparison."""

import warnings
from collections.abc import Iterable, Mapping
from contextlib import suppress
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd

from raymeta.errors import unknown_name
from raymeta.results.schema import BLACK_BOX, FAMILIES, hparam_columns

PREFIX = "config/"
STEP = "training_iteration"
OURS = ("trial", "failure")
#: What Tune adds to every report, and nobody compares.
TUNES = {
    *("timestamp", "checkpoint_dir_name", "should_checkpoint", "done", "trial_id"),
    *("date", "time_this_iter_s", "time_total_s", "pid", "hostname", "node_ip"),
    *("time_since_restore", "iterations_since_restore", "experiment_tag", "logdir"),
    *("timesteps_total", "episodes_total", STEP, *OURS),
}
LONG = 60  # letters of a hyperparameter that is no number


def from_result_grid(
    grid: Iterable[Any],
    metric: str,
    *,
    mode: str = "min",
    task: str = "task",
    method: str = "tune",
    family: str = BLACK_BOX,
    seed: int = 0,
    cost: str | float = 1.0,
    horizon: int | None = None,
) -> pd.DataFrame:
    """Turn what `Tuner.fit` returned into the frame that all tables and figures take.

    Frames of several runs (methods, seeds, tasks) are joined with `pandas.concat`.
    Reports of concurrent trials are put in the order of their `timestamp`.

    Args:
        grid: A Ray Tune `ResultGrid`, or a list of its `metrics_dataframe`s.
        metric: the column to be compared: a validation loss. Trials that failed are
            rows without one; a warning says how many.
        mode: `min`, or `max` for a metric whose negative is the loss.
        task: the name of what was tuned.
        method: the name of the search.
        family: `black-box`, `hybrid` or `hypergradient`.
        seed: equal seeds of two methods are compared as a pair.
        cost: gradient evaluations per training iteration, or the column that adds them
            up within a trial.
        horizon: training iterations of a full run: only the values of such count. By
            default the most that any trial did.

    Returns:
        One row per report and one final row, with `REQUIRED_COLUMNS` and `hp/…`:
        numbers where every trial's are, words otherwise.

    Raises:
        ValueError: `mode` or `family` is another word, nothing was reported, every
            trial failed, no trial reported the metric or the cost, or one is no number.
    """
    if mode not in ("min", "max"):
        raise ValueError(f"mode must be 'min' or 'max', but got {mode!r}")
    if family not in FAMILIES:
        raise unknown_name("family", family, FAMILIES)
    trials = [_trial(number, result) for number, result in enumerate(_listed(grid))]
    rows = pd.concat(trials, ignore_index=True) if trials else pd.DataFrame()
    _require_metric(rows, metric, len(trials))
    wanted = [metric, STEP, *([cost] if isinstance(cost, str) else [])]
    if missing := [name for name in wanted if name not in rows]:
        raise ValueError(
            f"a trial's reports need the columns {', '.join(wanted)}, but no trial has "
            f"{', '.join(missing)}: pass what Tuner.fit returned, and its metric"
        )
    _warn_of_gaps(rows, len(trials))
    if "timestamp" in rows:
        rows = rows.sort_values("timestamp", kind="stable", ignore_index=True)
    rows[STEP] = rows[STEP].fillna(0)
    rows[metric] = _numbers(rows[metric], metric)
    spent = _numbers(rows[cost], cost) if isinstance(cost, str) else rows[STEP] * cost
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
        **hparam_columns(
            {name.removeprefix(PREFIX): _hparam(rows[name]) for name in names}
        ),
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
    known = {name for name in reports if str(name).startswith(PREFIX)}
    config = {} if known else _flat(getattr(result, "config", None) or {})
    given = {name: [value] * len(reports) for name, value in config.items()}
    reports = reports.assign(**given, trial=number, failure="")
    if result.error is None:
        return reports
    end = reports.tail(1).drop(columns=["trial", "failure"]).to_dict("records")
    told = {"trial": number, "failure": _reason(result.error)}
    row = pd.DataFrame([{**(end[0] if end else config), **told}])
    return pd.concat([reports, row], ignore_index=True) if end else row


def _reason(error: BaseException) -> str:
    """One line: the first below the last traceback in an error's text, or the last."""
    lines = str(error).strip().splitlines()
    frames = [i for i, line in enumerate(lines) if line.startswith("  File ")]
    below = lines[frames[-1] + 1 :] if frames else []
    said = [line for line in below if not line[:1].isspace()]
    return (said[:1] or lines[-1:] or [type(error).__name__])[0]


def _listed(grid: Any) -> list[Any]:
    """The trials.

    Raises:
        ValueError: it is something else.
    """
    trials: list[Any] = [grid]  # unless it is a sequence
    with suppress(TypeError):
        trials = list(grid)
    if isinstance(grid, pd.DataFrame) or not all(
        isinstance(trial, pd.DataFrame) or hasattr(trial, "metrics_dataframe")
        for trial in trials
    ):
        raise ValueError(
            "a grid must be what Tuner.fit returned, or a list of frames of a trial's "
            f"reports, but got a {type(grid).__name__}: pass the ResultGrid "
            "itself, not its get_dataframe()"
        )
    return trials


def _require_metric(rows: pd.DataFrame, metric: str, count: int) -> None:
    """Raise ValueError where no trial has it, with the reason why."""
    if metric in rows:
        return
    failures = rows["failure"] if "failure" in rows else pd.Series(dtype=str)
    failed = rows[failures != ""] if len(rows) else rows
    if count and len(failed) and failed["trial"].nunique() == count:
        first = failed.sort_values("trial")["failure"].iloc[0]
        raise ValueError(
            f"a comparison needs a trial that reports {metric!r}, but all {count} "
            f"failed, the first by {first!r}: repair the trainable"
        )
    numbers = [name for name in rows.select_dtypes("number") if name not in TUNES]
    known = [str(n) for n in numbers if not str(n).startswith(PREFIX)]
    if known:
        raise unknown_name("metric", str(metric), known)


def _warn_of_gaps(rows: pd.DataFrame, count: int) -> None:
    """Say how many trials failed, or reported nothing."""
    failed = rows[rows["failure"] != ""].drop_duplicates("trial").sort_values("trial")
    silent = count - rows["trial"].nunique()
    said = []
    if len(failed):
        first = failed["failure"].iloc[0]
        said.append(f"{len(failed)} of {count} trials failed, the first by {first!r}")
    if silent:
        said.append(f"{silent} of {count} trials reported nothing")
    if said:
        warnings.warn("; ".join(said), UserWarning, stacklevel=3)


def _numbers(values: pd.Series, name: str) -> pd.Series:
    """A metric as floats; tensors and arrays of one number are numbers.

    Raises:
        ValueError: something else was reported.
    """
    if pd.api.types.is_numeric_dtype(values):
        return values.astype(float)
    plain = values.map(_plain)
    words = [v for v in plain if v is not None and not isinstance(v, Real)]
    if words:
        raise ValueError(
            f"a metric must be a number, but a trial reported {name}={words[0]!r}: "
            "report float(...)"
        )
    return pd.to_numeric(plain).astype(float)


def _hparam(values: pd.Series) -> pd.Series:
    """Numbers where all are, words otherwise; what a trial does not have stays empty.

    A mixture of both would fit no file and no axis.
    """
    if pd.api.types.is_numeric_dtype(values) and values.dtype != bool:
        return values
    plain = values.map(_plain)
    known = plain[plain.notna()]
    if all(isinstance(v, Real) and not isinstance(v, bool) for v in known):
        return pd.to_numeric(plain)
    return plain.where(plain.isna(), plain.map(str))


def _plain(value: Any) -> Any:
    """A number, a short word, or None for what is missing."""
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return None
    if isinstance(value, str | Real):
        return value
    if np.size(getattr(value, "shape", None) or ()) == 0 and hasattr(value, "item"):
        return value.item()  # of NumPy, or of torch
    words = " ".join(str(value).split())
    return words if len(words) <= LONG else f"{words[: LONG - 1]}…"


def _flat(config: Mapping[str, Any], prefix: str = PREFIX) -> dict[str, Any]:
    """Tune's names of what is in a nested configuration."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}/")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _over_trials(rows: pd.DataFrame, within: pd.Series) -> pd.Series:
    """Add up over all trials what each trial has added up within itself."""
    filled = within.groupby(rows["trial"]).ffill().fillna(0.0)
    before = filled.groupby(rows["trial"]).shift(fill_value=0.0)
    return (filled - before).cumsum()
