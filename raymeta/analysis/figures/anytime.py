"""Anytime curves: the best validation loss against what has been spent."""

import math
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from raymeta.analysis.figures import layout, style
from raymeta.analysis.figures.legend import methods_to_label
from raymeta.analysis.tables.anytime import UNITS, anytime_of
from raymeta.analysis.tables.frames import studies, target_of
from raymeta.analysis.tables.text import number, shorten
from raymeta.results.schema import BLACK_BOX, HYBRID, HYPERGRADIENT, TUNING_FREE

HEIGHT = 3.7  # of a panel, inches
KEYS = {
    HYPERGRADIENT: "solid: hypergradient methods",
    HYBRID: "dash-dotted: hybrids",
    BLACK_BOX: "dashed: black-box methods",
    TUNING_FREE: "dash-dot-dotted: one run, tuning-free",
}
CROWDED = 6  # lines beyond which bands are fainter
ROOM = 1.5  # above the shown ends, in multiples of their spread


def draw_anytime(frame: pd.DataFrame, x: str = "gradient_evals") -> Figure:
    """Draw `anytime`, one panel a task; the black-box target is a dotted line.

    Of more than ten methods the ten of `methods_to_label` are named; the others are
    thin grey lines. The top of the axis is cut so that the ends of the named ones can
    be told apart (`y_range`); the axis says so.

    Args:
        frame: one row per report.
        x: `gradient_evals` or `wall_s`.

    Returns:
        A figure; `style.save` writes it.

    Raises:
        ValueError: `x` is another column, or a required column is missing.
    """
    summary = studies(frame, x)
    table = anytime_of(summary)
    targets = target_of(summary)
    tasks = sorted(frame["task"].unique())
    with style.context():
        count = max(1, len(tasks))
        figure, panels = layout.panels(count, across=2, width=5.4, height=HEIGHT)
        if not tasks:
            layout.blank(panels[0], "no report yet")
        for task, axes in zip(tasks, panels, strict=False):
            reports, lines = (f[f["task"] == task] for f in (frame, table))
            axes.set_title(
                task if len(task) <= 24 else f"{task}\n"
            )  # room for the note
            layout.spend_axis(axes, reports[x].max(), UNITS[x])
            named = methods_to_label(summary[summary["task"] == task])
            _draw_task(axes, lines, targets[targets["task"] == task], named)
            silent = sorted(set(reports["method"]) - set(lines["method"]))
            _say_silence(axes, silent, x)
        _explain(figure, panels, set(frame["family"]))
        layout.alarm(figure, frame)
    return figure


def _explain(figure: Figure, panels: list[Axes], families: set[str]) -> None:
    """Say below the panels what lines and marks mean."""
    marks = {line.get_gid() for axes in panels for line in axes.lines}
    notes = ["median over seeds and interquartile band"]
    notes += [key for family, key in KEYS.items() if family in families]
    if any(str(mark).startswith("other ") for mark in marks):
        notes.append("grey: the other methods")
    if "stop" in marks:
        notes.append("cross: interrupted")
    layout.caption(figure, notes, wide=len(panels) > 1)


def _say_silence(axes: Axes, silent: list[str], x: str) -> None:
    """Name, below the axis or in an empty panel, the methods without a line."""
    if not silent:
        return
    text = f"no value in half of its seeds: {', '.join(map(shorten, silent))}"
    if axes.lines:
        axes.set_xlabel(f"{UNITS[x]}\n{fill(text, 80)}")
    else:
        layout.blank(axes, fill(text, 60))


def _draw_task(
    axes: Axes, table: pd.DataFrame, target: pd.DataFrame, named: list[str]
) -> None:
    """Draw one task: bands, lines, the target, and the lines' names."""
    axes.set_ylabel("best validation loss")
    if not len(table):
        return
    goal = target["target"].median() if len(target) else np.nan
    shown = table[table["method"].isin(named)]
    low, high = y_range(shown, goal)
    layout.scale(axes.yaxis, low, high)
    if shown["median"].max() > high:
        axes.set_ylabel(f"best validation loss, cut above {number(high)}")
    lines = list(table.groupby(["method", "family"]))
    for (method, _), line in lines:
        if method not in named:
            _draw_other(axes, method, line)
    alpha = 0.13 if len(named) <= CROWDED else 0.07
    labels = [
        _draw_method(axes, method, family, line, alpha)
        for (method, family), line in lines
        if method in named
    ]
    if len(target):
        _draw_target(axes, target["method"].iloc[0], goal)
    layout.label_ends(axes, labels, height=HEIGHT)


def _draw_other(axes: Axes, method: str, line: pd.DataFrame) -> None:
    """Draw the median of a method that is not named."""
    axes.plot(
        *(line["x"], line["median"]),
        drawstyle="steps-post",
        color=style.OTHERS,
        linewidth=0.8,
        zorder=1,
        gid=f"other {method}",
    )


def _draw_method(
    axes: Axes, method: str, family: str, line: pd.DataFrame, alpha: float
) -> layout.EndLabel:
    """Draw one method's band and median; return the label of its end."""
    shade = style.colour(method)
    upper = line["q75"].fillna(10 * max(line["q25"].max(), axes.get_ylim()[1]))
    axes.fill_between(
        *(line["x"], line["q25"], upper),
        step="post",
        color=shade,
        alpha=alpha,
        linewidth=0,
    )
    axes.plot(
        *(line["x"], line["median"]),
        drawstyle="steps-post",
        color=shade,
        linestyle=style.dashes(family),
        linewidth=1.7,
        marker="o" if len(line) == 1 else "",
        markersize=4,
        label=method,
        gid=f"median {method}",
    )
    end = line.iloc[-1]
    name, ink = shorten(method), style.text_colour(method)
    return layout.EndLabel(name, ink, end["x"], end["median"])


def _draw_target(axes: Axes, method: str, goal: float) -> None:
    """Mark the loss at which the best black-box method ended."""
    axes.axhline(goal, color=style.MUTED, linestyle=":", linewidth=1, gid="target")
    axes.set_title(
        f"dotted: {goal:.4g}, median final loss of {shorten(method)}",
        loc="right",
        color=style.MUTED,
        fontsize=8,
        fontweight="normal",
    )


def y_range(table: pd.DataFrame, goal: float = np.nan) -> tuple[float, float]:
    """Choose what losses to show so that the lines can be told apart where they end.

    Args:
        table: `anytime` of one task.
        goal: A loss that must be in sight, or NaN.

    Returns:
        The lowest and the highest loss: all ends, and above them as much again and a
        half, in the logarithm where the ends span more than a decade; more where half
        of all lines' course is not in sight then. An end beyond four times the spread
        of the better three quarters is out of sight, and so is one of 100 times the
        lowest loss.
    """
    last = table.groupby("method")["median"].last()
    ends = last.to_numpy()
    low = float(np.nanmin([table["q25"].min(), goal]))
    ends = ends[ends <= 100 * ends.min()] if ends.min() > 0 else ends
    usual = float(np.nanmax([np.quantile(ends, 0.75, method="higher"), goal]))
    log = low > 0 and usual > layout.DECADE * low
    level, back = (math.log, math.exp) if log else (float, float)
    farthest = back(level(low) + 4 * (level(usual) - level(low)))
    shown = max([usual, *(float(end) for end in ends if end <= farthest)])
    room = back(level(shown) + ROOM * (level(shown) - level(low)))
    near = table[table["method"].isin(last.index[last <= farthest])]
    half, top = np.quantile(_on_the_way(near), [0.5, 1.0])
    return low, float(max(min(max(room, half), top), shown))


def _on_the_way(table: pd.DataFrame) -> np.ndarray:
    """The upper quartiles of all lines at evenly spaced places."""
    spent = np.linspace(0, table["x"].max(), 200)
    seen = []
    for _, line in table.groupby("method"):
        index = np.searchsorted(line["x"], spent, side="right") - 1
        tops = line["q75"].fillna(line["median"]).to_numpy()
        seen.append(tops[index[index >= 0]])
    return np.concatenate(seen)
