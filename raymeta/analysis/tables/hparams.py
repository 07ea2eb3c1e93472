"""Paths of hyperparameters: walks of hypergradient methods, black-box incumbents.

`hparam_paths` follows single hyperparameters, `hparam_bands` summarises those that
come by the dozen (`hp/lr[0]` … `hp/lr[99]`) in quantiles over the entries.
"""

from collections.abc import Collection

import numpy as np
import pandas as pd

from raymeta.analysis.tables.frames import (
    STUDY,
    check,
    seed_median,
    seed_quantile,
    studies,
)
from raymeta.analysis.tables.incumbents import incumbents
from raymeta.results.schema import HYPERGRADIENT, PREFIX

MANY = 12  # more entries of one base name than this are summarised
TRIAL = ["method", "family", "seed", "trial"]
QUANTILES = {"q10": 0.1, "median": 0.5, "q90": 0.9}


def hparam_paths(
    frame: pd.DataFrame, task: str, choices: Collection[str] = ()
) -> pd.DataFrame:
    """Follow every single hyperparameter of a task.

    Hypergradient methods give one point per report. Black-box methods and hybrids give
    their incumbent, the trial that holds the best full-horizon loss: one point where it
    changes, and one where the study ends.

    Args:
        frame: one row per report.
        task: which task.
        choices: names of choices among numbers; options of other types are told by
            themselves.

    Returns:
        Columns `hyperparameter` (`lr[0]`), `method`, `family`, `seed`, `trial`,
        `gradient_evals`, `value` (natural; the position of a choice among the sorted
        ones), `choice` (its name; "" for numbers), `representative` (the method's
        seed with the median final loss, and there the trial which holds it).

    Raises:
        ValueError: the frame has no such task, or a required column is missing.
    """
    walks = _walks(frame, task)
    names = [
        n for group in _groups(walks).values() if len(group) <= MANY for n in group
    ]
    tables = []
    for name in names:
        table = walks[[*TRIAL, "gradient_evals", "representative"]].copy()
        table.insert(0, "hyperparameter", name.removeprefix(PREFIX))
        chosen = name.removeprefix(PREFIX) in choices
        table["value"], table["choice"] = _as_numbers(walks[name], chosen)
        tables.append(table[np.isfinite(table["value"])])
    columns = ["hyperparameter", *TRIAL, "gradient_evals", "value", "choice"]
    columns.append("representative")
    if not tables:
        return pd.DataFrame(columns=columns)
    return pd.concat(tables, ignore_index=True)[columns]


def hparam_bands(frame: pd.DataFrame, task: str) -> pd.DataFrame:
    """Summarise the hyperparameters which have more than 12 entries.

    Args:
        frame: one row per report.
        task: which task.

    Returns:
        Columns `hyperparameter` (the base name, `lr`), `entries`, `method`, `family`,
        `seed`, `trial`, `gradient_evals`, `q10`, `median`, `q90` (over the entries) for
        the representative trial of each method (see `hparam_paths`).

    Raises:
        ValueError: the frame has no such task, a required column is missing, or
            such entries are not numbers.
    """
    walks = _walks(frame, task)
    groups = {b: names for b, names in _groups(walks).items() if len(names) > MANY}
    walks = walks[walks["representative"]]
    tables = []
    for base, names in groups.items():
        entries = np.stack([_entry(walks[name]) for name in names])
        table = walks[[*TRIAL, "gradient_evals"]].copy()
        table.insert(0, "hyperparameter", base)
        table.insert(1, "entries", len(names))
        for quantile, q in QUANTILES.items():
            table[quantile] = seed_quantile(entries, q)
        tables.append(table.dropna(subset=list(QUANTILES)))
    if not tables:
        columns = ["hyperparameter", "entries", *TRIAL, "gradient_evals", *QUANTILES]
        return pd.DataFrame(columns=columns)
    return pd.concat(tables, ignore_index=True)


def _walks(frame: pd.DataFrame, task: str) -> pd.DataFrame:
    """Return the rows that `hparam_paths` shows, its `hp/` columns side by side."""
    check(frame)
    rows = frame[frame["task"] == task].reset_index(drop=True)
    if not len(rows):
        known = ", ".join(map(str, sorted(frame["task"].unique()))) or "none"
        raise ValueError(
            f"a task must be in the frame, but got {task!r}: pass one of {known}"
        )
    names = [name for name in rows if name.startswith(PREFIX)]
    names = [name for name in names if rows[name].notna().any()]
    keep = [*TRIAL, "gradient_evals", *names]
    chosen = _representatives(rows)
    tables = []
    for (_, method, seed), study in rows.groupby(STUDY):
        best = incumbents(study)
        holder = best["trial"].iloc[-1] if len(best) else study["trial"].min()
        walk = _walk(study, best)[keep].copy()
        bold = chosen[method] == seed
        walk["representative"] = bold & (
            (walk["trial"] == holder) | (walk["family"] != HYPERGRADIENT)
        )
        tables.append(walk)
    return pd.concat(tables, ignore_index=True)


def _walk(study: pd.DataFrame, best: pd.DataFrame) -> pd.DataFrame:
    """Choose the points of one study: all reports, or the incumbents up to its end."""
    if (study["family"] == HYPERGRADIENT).any():
        reports = study[study["status"] != "final"]
        return reports.sort_values("gradient_evals", kind="stable")
    last = best.tail(1).assign(gradient_evals=study["gradient_evals"].max())
    return pd.concat([best, last])


def _representatives(rows: pd.DataFrame) -> dict[str, int]:
    """Return each method's seed whose final loss is nearest to its seeds' median."""
    chosen = {}
    for method, group in studies(rows).groupby("method"):
        losses = group["best_outer_loss"]
        away = (losses - seed_median(losses)).abs().fillna(np.inf)
        chosen[method] = group["seed"].iloc[int(away.argmin())]
    return chosen


def _groups(walks: pd.DataFrame) -> dict[str, list[str]]:
    """Group the `hp/` columns by base name: `lr` for `hp/lr[0]`."""
    groups: dict[str, list[str]] = {}
    for name in walks:
        if name.startswith(PREFIX):
            base = name.removeprefix(PREFIX).split("[")[0]
            groups.setdefault(base, []).append(name)
    return groups


def _as_numbers(
    column: pd.Series, choice: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Return a column as numbers and names: positions and names of a choice."""
    numbers = pd.to_numeric(column, errors="coerce")
    numeric = numbers.notna().sum() == column.notna().sum()
    if numeric and not choice:
        return numbers.to_numpy(float), np.full(len(column), "", object)
    options = numbers if numeric else column.astype("str")
    codes, names = pd.factorize(options, sort=True, use_na_sentinel=True)
    texts = [f"{name:g}" if numeric else name for name in names]
    labels = np.array([*texts, ""], object)[codes]
    return np.where(codes < 0, np.nan, codes), labels


def _entry(column: pd.Series) -> np.ndarray:
    """Return one entry of many as numbers, or refuse choices."""
    values, names = _as_numbers(column)
    if any(names):
        raise ValueError(
            f"more than {MANY} hyperparameters of one base name must be numbers, but "
            f"{column.name} holds {names[0]!r}: drop the column or rename it"
        )
    return values
