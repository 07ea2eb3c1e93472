"""Budgets of studies: what they were given and spent, and what failed."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import pandas as pd

from raymeta.analysis.report.rendering import Columns
from raymeta.analysis.tables.text import MISSING, number


class Budgets(NamedTuple):
    """What every study was asked to spend, and spent.

    Attributes:
        columns: A row per task and method.
        recorded: whether it is known what was asked.
        over: how many methods spent more.
    """

    columns: Columns
    recorded: bool
    over: int


def budget_table(frame: pd.DataFrame, budgets: Mapping[str, float]) -> Budgets | None:
    """Compare what was spent with the budgets; None without a report.

    Args:
        frame: one row per report.
        budgets: gradient evaluations per study, by task; empty when not recorded.
    """
    if not len(frame):
        return None
    ends = frame.groupby(["task", "method", "seed"])
    spent = ends["gradient_evals"].max().unstack("seed")
    family = frame.groupby(["task", "method"])["family"].first()
    trials = ends["trial"].nunique().groupby(["task", "method"]).median()
    seconds = ends["wall_s"].max().groupby(["task", "method"]).median()
    tasks = spent.index.get_level_values("task")
    asked = pd.Series(tasks.map(dict(budgets)), spent.index, dtype=float)
    most = spent.max(axis="columns") / asked
    columns: dict[str, list[str]] = {
        "task": list(tasks),
        "method": list(spent.index.get_level_values("method")),
        "family": list(family),
        "asked": [number(value) for value in asked],
        **{f"seed {seed}": [number(x) for x in spent[seed]] for seed in spent},
        "most": [MISSING if pd.isna(x) else f"{x:.1%}" for x in most],
        "trials": [f"{x:,g}" for x in trials],
        "seconds": [number(x) for x in seconds],
    }
    return Budgets(columns, bool(budgets), int((most > 1 + 1e-9).sum()))


def skipped_columns(spending: Mapping[str, Any]) -> dict[str, list[str]]:
    """Methods that were asked for and not compared on a task, with the reason.

    Args:
        spending: what spending.json holds; empty without it.
    """
    rows = spending.get("skipped", [])
    names = ("task", "method", "reason") if rows else ()
    return {name: [row[name] for row in rows] for name in names}


def failure_columns(frame: pd.DataFrame) -> dict[str, list[str]]:
    """Trials that failed, and reports that were not finite, by reason."""
    rows = frame[frame["failure"].fillna("") != ""]
    found = [
        {
            "task": task,
            "method": method,
            "reports": str(len(group)),
            "seeds": ", ".join(map(str, sorted(group["seed"].unique()))),
            "first": f"seed {group['seed'].iloc[0]}, trial {group['trial'].iloc[0]}",
            "reason": reason,
        }
        for (task, method, reason), group in rows.groupby(["task", "method", "failure"])
    ]
    return {name: [row[name] for row in found] for name in (found[0] if found else ())}
