"""Figures of single objects: what their `plot()` shows."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from raymeta.analysis.figures import layout, style
from raymeta.analysis.figures.diagnosis import draw_diagnosis
from raymeta.analysis.figures.meta_loss import draw_meta_loss
from raymeta.results.schema import PREFIX

__all__ = [
    "draw_descent",
    "draw_diagnosis",
    "draw_gradient",
    "draw_meta_loss",
    "draw_space",
]

#: Lines of single hyperparameters; of more the first are drawn.
MOST = 12


def draw_descent(frame: pd.DataFrame, title: str) -> Figure:
    """Draw the outer loss of one descent, and its λ, against gradient evaluations.

    Args:
        frame: one row per report of one (task, method, seed).
        title: what it is.
    """
    rows = frame[frame["status"] != "final"]
    x = rows["gradient_evals"]
    names = [n for n in rows if str(n).startswith(PREFIX)]
    values = {n: pd.to_numeric(rows[n], errors="coerce") for n in names}
    values = {n: column for n, column in values.items() if column.notna().any()}
    with style.context():
        figure, (left, right) = layout.panels(2, across=2, width=4.8, height=3.4)
        left.set_title(title)
        full = rows["status"] == "complete"
        left.plot(x[full], rows["outer_loss"][full], ".", label="full runs")
        left.step(x, rows["best_outer_loss"], where="post", label="best")
        left.set_xlabel("gradient evaluations")
        left.set_ylabel("outer loss")
        left.legend()
        shown = list(values)[:MOST]
        for name in shown:
            right.plot(x, values[name], label=name.removeprefix(PREFIX))
        if shown and all((values[n].dropna() > 0).all() for n in shown):
            right.set_yscale("log")
        more = len(values) - len(shown)
        right.set_title("hyperparameters" + (f", {more} more not drawn" * bool(more)))
        right.set_xlabel("gradient evaluations")
        if shown:
            right.legend(fontsize="small")
    return figure


def draw_gradient(values: Mapping[str, float], title: str) -> Figure:
    """Draw derivatives by flat name as bars; of very many, as a line.

    Args:
        values: dE/dλ of each scalar.
        title: what they are.
    """
    numbers = np.array(list(values.values()), float)
    with style.context():
        figure, (axes,) = layout.panels(1, across=1, width=5.4, height=3.4)
        axes.set_title(title)
        axes.set_ylabel("dE/dλ")
        axes.axhline(0, color="0.5", linewidth=0.8)
        if len(numbers) > 40:
            axes.plot(numbers, linewidth=1)
            axes.set_xlabel(f"{len(numbers)} hyperparameters, in order")
        else:
            axes.bar(range(len(numbers)), numbers)
            axes.set_xticks(range(len(numbers)), list(values), rotation=60, ha="right")
    return figure


def draw_space(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw each domain from its lower to its upper bound, with its start.

    Args:
        rows: `name`, `kind`, `low`, `high` (±∞ without), `initial`: all numbers of it;
            of a choice its number of options as `options`.
    """
    with style.context():
        height = 1.0 + 0.4 * max(len(rows), 1)
        figure, (axes,) = layout.panels(1, across=1, width=5.4, height=height)
        axes.set_title("search space: bounds, and start (dots)")
        axes.set_yticks(
            range(len(rows)), [f"{row['name']} ({row['kind']})" for row in rows]
        )
        axes.set_xscale("symlog", linthresh=1e-6)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        for place, row in enumerate(rows):
            if "options" in row:
                text = f"{row['options']} options"
                axes.annotate(text, (0, place), va="center")
                continue
            start = np.asarray(row["initial"], float)
            ends = [row["low"], row["high"]]
            bounded = np.isfinite(ends)
            low, high = np.where(bounded, ends, [start.min(), start.max()])
            axes.plot([low, high], [place, place], linewidth=2, alpha=0.5)
            axes.plot(start, np.full(len(start), place), ".", color="black")
            for end, sign, known in zip((low, high), "<>", bounded, strict=True):
                if not known:
                    axes.plot([end], [place], sign, color="0.5")
    return figure
