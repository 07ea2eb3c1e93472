"""Tables of results: the ranking, differences, targets, areas."""

import math
from typing import NamedTuple

import pandas as pd

from raymeta.analysis.report.rendering import Columns
from raymeta.analysis.tables.area import area_under_curve
from raymeta.analysis.tables.bootstrap import final_differences
from raymeta.analysis.tables.frames import studies
from raymeta.analysis.tables.ranking import alarms, notes, text_columns
from raymeta.analysis.tables.targets import target_summary, to_target
from raymeta.analysis.tables.text import MISSING, number


class Ranking(NamedTuple):
    """The ranking of one task, as in the terminal.

    Attributes:
        task: its name.
        alarms: why the comparison is not valid; empty where it is.
        columns: A row per method, the best first.
        families: how many methods of each family there are.
        notes: sentences on the target and on what is missing.
    """

    task: str
    alarms: list[str]
    columns: Columns
    families: str
    notes: list[str]


def rankings(table: pd.DataFrame) -> list[Ranking]:
    """Lay `ranking`'s table out, task by task."""
    found = []
    for task, group in table.groupby("task"):
        columns: dict[str, list[str]] = {
            "method": list(group["method"]),
            "family": list(group["family"]),
        }
        for above, below, *column in text_columns(group).values():
            columns.setdefault(f"{above} {below}".strip(), column)
        counts = group["family"].value_counts()
        families = ", ".join(f"{count} {family}" for family, count in counts.items())
        said = [_sentence(note, group) for note in notes(group) if len(group) > 1]
        found.append(Ranking(str(task), alarms(group), columns, families, said))
    return found


def _sentence(note: str, group: pd.DataFrame) -> str:
    """Begin with a capital, unless a method's name begins it."""
    names = note.startswith(tuple(group["method"]))
    return note + "." if names else note[0].upper() + note[1:] + "."


class Statistics(NamedTuple):
    """How far apart the methods are on one task, and how early they were good.

    Attributes:
        task: its name.
        columns: A row per method.
        scale: what the area is of: the loss, or its logarithm.
        reference: the method that others are compared with; "" without one.
    """

    task: str
    columns: Columns
    scale: str
    reference: str


def statistics(frame: pd.DataFrame) -> list[Statistics]:
    """Compare the methods of each task; nothing where there is only one."""
    if frame["method"].nunique() < 2:
        return []
    return [_of_task(str(task), rows) for task, rows in frame.groupby("task")]


def _of_task(task: str, rows: pd.DataFrame) -> Statistics:
    """Build one task's table."""
    losses = studies(rows)
    positive = bool((losses["best_outer_loss"].dropna() > 0).all())
    positive &= bool((rows["best_outer_loss"].dropna() > 0).all())
    areas = area_under_curve(rows, log=positive).groupby("method")["area"].median()
    order = losses.groupby("method")["best_outer_loss"].median()
    methods = list(order.sort_values(kind="stable").index)
    apart = final_differences(rows).set_index("method")
    reference = apart["reference"].iloc[0] if len(apart) else ""
    apart = apart.reindex(methods)
    goals = target_summary(to_target(rows)).set_index("method").reindex(methods)
    columns: dict[str, list[str]] = {
        "method": methods,
        "final loss": [number(order[method]) for method in methods],
        "difference": [signed(value) for value in apart["difference"]],
        "95 % interval": [
            MISSING if math.isnan(low) else f"{signed(low)} to {signed(high)}"
            for low, high in zip(apart["low"], apart["high"], strict=True)
        ],
        "seeds better": _shares(apart["better"], apart["seeds"]),
        "median to target": [number(value) for value in goals["median"]],
        "expected to target": [number(value) for value in goals["expected"]],
        "seeds that arrive": _shares(
            goals["reached"], goals["reached"] + goals["censored"]
        ),
        "area": [_area(areas.get(method, math.nan)) for method in methods],
    }
    scale = "logarithmic loss" if positive else "loss"
    return Statistics(task, columns, scale, reference)


def signed(value: float) -> str:
    """Write a difference with its sign."""
    if math.isnan(value) or value == 0:
        return number(value)
    return f"{'+' if value > 0 else '−'}{number(abs(value))}"


def _shares(parts: pd.Series, wholes: pd.Series) -> list[str]:
    """Write "2 of 3"; what is missing, missing."""
    return [
        MISSING if pd.isna(part) else f"{part:.0f} of {whole:.0f}"
        for part, whole in zip(parts, wholes, strict=True)
    ]


def _area(area: float) -> str:
    return MISSING if math.isnan(area) else f"{area:.3f}"
