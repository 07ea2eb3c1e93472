"""Tables of results: the ranking, differences, targets, areas."""

import math

import pandas as pd

from raymeta.analysis.figures import style
from raymeta.analysis.report.html import Markup, heading, swatch, table
from raymeta.analysis.report.record import pairs
from raymeta.analysis.tables.area import area_under_curve
from raymeta.analysis.tables.bootstrap import final_differences
from raymeta.analysis.tables.frames import cells
from raymeta.analysis.tables.ranking import text_columns
from raymeta.analysis.tables.targets import target_summary, to_target
from raymeta.analysis.tables.text import MISSING, number


def named(method: str) -> Markup:
    """A method with its colour."""
    return swatch(method, style.colour(method))


def rank_table(group: pd.DataFrame) -> Markup:
    """The ranking of one task, as in the terminal.

    Args:
        group: Of `ranking`, one task.
    """
    columns = {}
    for above, below, *column in text_columns(group).values():
        columns[f"{above} {below}".strip()] = column
    columns["method"] = [named(method) for method in group["method"]]
    first = {"method": columns.pop("method"), "family": list(group["family"])}
    counts = group["family"].value_counts()
    families = ", ".join(f"{count} {family}" for family, count in counts.items())
    caption = f"Medians over seeds, the best first. Methods: {families}."
    return table({**first, **columns}, caption)


def statistics(frame: pd.DataFrame) -> list[Markup]:
    """For each task, how far apart methods are, and how early they were good."""
    tasks = sorted(frame["task"].unique())
    if frame["method"].nunique() < 2:
        return []
    explained = {
        "difference": "Mean over seeds of a method's final loss minus that of the "
        "reference, the method of lowest median; with a 95 % bootstrap interval over "
        "paired seeds. An interval that contains 0 does not tell the two apart; with "
        "few seeds intervals are too narrow.",
        "to target": "Evaluations until the final loss of the best black-box method in "
        "that seed. In the median a seed that never arrives counts as ∞; expected is "
        "all that was spent until the target or the end, over the seeds that arrive.",
        "area": "The best loss so far, averaged over the budget: 0 is the lowest loss "
        "at once, 1 never better than the first.",
    }
    return [pairs(explained), *(part for task in tasks for part in _of(frame, task))]


def _of(frame: pd.DataFrame, task: str) -> list[Markup]:
    """One task's table."""
    rows = frame[frame["task"] == task]
    apart = final_differences(rows).set_index("method")
    goals = target_summary(to_target(rows)).set_index("method")
    losses = cells(rows)
    positive = bool((losses["best_outer_loss"].dropna() > 0).all())
    positive &= bool((rows["best_outer_loss"].dropna() > 0).all())
    areas = area_under_curve(rows, log=positive).groupby("method")["area"].median()
    order = losses.groupby("method")["best_outer_loss"].median()
    methods = list(order.sort_values(kind="stable").index)
    reference = apart["reference"].iloc[0] if len(apart) else ""
    columns: dict[str, list[str]] = {
        "method": [named(method) for method in methods],
        "final loss": [number(order[method]) for method in methods],
        "difference": [_difference(apart, m) for m in methods],
        "95 % interval": [_interval(apart, m) for m in methods],
        "seeds better": [_better(apart, m) for m in methods],
        "median to target": [_number(goals, m, "median") for m in methods],
        "expected to target": [_number(goals, m, "expected") for m in methods],
        "seeds that arrive": [_arrived(goals, m) for m in methods],
        "area": [_share(areas.get(m, math.nan)) for m in methods],
    }
    scale = "logarithmic loss" if positive else "loss"
    caption = f"Final loss and area are medians over seeds; area of the {scale}."
    if reference:
        caption += f" Reference: {reference}."
    return [heading(task), table(columns, caption)]


def _difference(apart: pd.DataFrame, method: str) -> str:
    if method not in apart.index:
        return MISSING
    return signed(apart.loc[method, "difference"])


def _interval(apart: pd.DataFrame, method: str) -> str:
    if method not in apart.index or math.isnan(apart.loc[method, "low"]):
        return MISSING
    low, high = apart.loc[method, ["low", "high"]]
    return f"{signed(low)} to {signed(high)}"


def signed(value: float) -> str:
    """Write a difference with its sign."""
    if math.isnan(value) or value == 0:
        return number(value)
    return f"{'+' if value > 0 else '−'}{number(abs(value))}"


def _better(apart: pd.DataFrame, method: str) -> str:
    if method not in apart.index:
        return MISSING
    row = apart.loc[method]
    return f"{row['better']} of {row['seeds']}"


def _number(goals: pd.DataFrame, method: str, column: str) -> str:
    return number(goals.loc[method, column]) if method in goals.index else MISSING


def _arrived(goals: pd.DataFrame, method: str) -> str:
    if method not in goals.index:
        return MISSING
    row = goals.loc[method]
    return f"{row['reached']} of {row['reached'] + row['censored']}"


def _share(area: float) -> str:
    return MISSING if math.isnan(area) else f"{area:.3f}"
