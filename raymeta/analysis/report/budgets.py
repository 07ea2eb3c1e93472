"""The budget's ledger, and what failed."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from raymeta.analysis.report.html import Markup, paragraph, table
from raymeta.analysis.report.results import named
from raymeta.analysis.tables.text import MISSING, number


def budget_table(frame: pd.DataFrame, budgets: Mapping[str, float]) -> list[Markup]:
    """What every cell was asked to spend, and spent.

    Args:
        frame: One row per report.
        budgets: Gradient evaluations per cell, by task; empty when not recorded.
    """
    if not len(frame):
        return []
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
        "method": [named(m) for m in spent.index.get_level_values("method")],
        "family": list(family),
        "asked": [number(value) for value in asked],
        **{f"seed {seed}": [number(x) for x in spent[seed]] for seed in spent},
        "most": [MISSING if pd.isna(x) else f"{x:.1%}" for x in most],
        "trials": [f"{x:,g}" for x in trials],
        "seconds": [number(x) for x in seconds],
    }
    over = most[most > 1 + 1e-9]
    verdict = (
        f"{len(over)} methods spent more than was asked: see the column “most”."
        if len(over)
        else "No method spent more than was asked."
        if budgets
        else "What was asked is not recorded."
    )
    text = (
        "Gradient evaluations that each cell was given and spent; trials and the "
        f"seconds that they computed are medians over seeds. {verdict}"
    )
    return [paragraph(text), table(columns)]


def skipped(spending: Mapping[str, Any]) -> list[Markup]:
    """Methods that were asked for and not compared on a task, with the reason.

    Args:
        spending: What spending.json holds; empty without it.
    """
    rows = spending.get("skipped", [])
    if not rows:
        return []
    columns: dict[str, list[str]] = {
        "task": [row["task"] for row in rows],
        "method": [named(row["method"]) for row in rows],
        "reason": [row["reason"] for row in rows],
    }
    return [table(columns, "Asked for, and not possible: nothing was spent on these.")]


def failures(frame: pd.DataFrame) -> list[Markup]:
    """Trials that failed, and reports that were not finite, by reason."""
    rows = frame[frame["failure"].fillna("") != ""]
    if not len(rows):
        return [paragraph("No trial failed.")]
    groups = rows.groupby(["task", "method", "failure"])
    columns: dict[str, list[str]] = {"task": [], "method": [], "reports": []}
    columns |= {"seeds": [], "first": [], "reason": []}
    for (task, method, reason), group in groups:
        first = group.iloc[0]
        columns["task"].append(task)
        columns["method"].append(named(method))
        columns["reports"].append(str(len(group)))
        columns["seeds"].append(", ".join(map(str, sorted(group["seed"].unique()))))
        columns["first"].append(f"seed {first['seed']}, trial {first['trial']}")
        columns["reason"].append(reason)
    return [table(columns, "Reports with a failure, by its reason.")]
