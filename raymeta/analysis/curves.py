"""Anytime curves: the best validation loss against what has been spent."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from raymeta.analysis import layout, style
from raymeta.analysis.frames import blackbox_target, cells, seed_quantile
from raymeta.analysis.text import shorten

UNITS = {"gradient_evals": "gradient evaluations", "wall_s": "seconds"}
GRID = 2000  # the most points of a task's common grid
HEIGHT = 3.7  # of a panel, inches
KEYS = ("solid: hypergradient methods", "dashed: black-box methods")
COLUMNS = ["task", "method", "family", "x", "median", "q25", "q75"]


def anytime(frame: pd.DataFrame, x: str = "gradient_evals") -> pd.DataFrame:
    """Follow each method's best validation loss over what it has spent.

    Every cell is a right-continuous staircase, and a finished one keeps its last value.
    A method's line runs where at least half of its seeds have a value, and where at
    least half are finished or still reporting. A seed without a value ranks behind all
    others, so that its first value does not make the median jump.

    Args:
        frame: One row per report.
        x: `gradient_evals` (forward+backward passes) or `wall_s` (compute seconds).

    Returns:
        Columns `task`, `method`, `family`, `x`, `median`, `q25`, `q75` (NaN: that
        quartile of the seeds has no value yet), on one grid of x per task.

    Raises:
        ValueError: `x` is another column, or a required column is missing.
    """
    if x not in UNITS:
        raise ValueError(
            f"x must be a column that accumulates, but got {x!r}: "
            f"pass one of {', '.join(UNITS)}"
        )
    tables = [_task_curves(cells_) for _, cells_ in cells(frame, x).groupby("task")]
    return pd.concat(tables) if tables else pd.DataFrame(columns=COLUMNS)


def _task_curves(cells: pd.DataFrame) -> pd.DataFrame:
    """Take the quantiles of one task's methods on its grid."""
    stairs = cells["staircase"]
    ends = [steps.end for steps in stairs if not np.isnan(steps.end)]
    grid = np.unique(np.concatenate([*(steps.x for steps in stairs), ends]))
    if len(grid) > GRID:
        grid = grid[np.linspace(0, len(grid) - 1, GRID).astype(int)]
    tables = []
    for (task, method), group in cells.groupby(["task", "method"]):
        values = np.stack([steps.at(grid) for steps in group["staircase"]])
        known = [steps.finished | (grid <= steps.end) for steps in group["staircase"]]
        q25, median, q75 = (seed_quantile(values, q) for q in (0.25, 0.5, 0.75))
        table = pd.DataFrame({"x": grid, "median": median, "q25": q25, "q75": q75})
        table = table.assign(task=task, method=method, family=group["family"].iloc[0])
        shown = ~np.isnan(median) & (np.mean(known, axis=0) >= 0.5)
        tables.append(table.loc[shown, COLUMNS])
    return pd.concat(tables, ignore_index=True)


def draw_anytime(frame: pd.DataFrame, x: str = "gradient_evals") -> Figure:
    """Draw `anytime`, one panel a task; the black-box target is a dotted line.

    Args:
        frame: One row per report.
        x: `gradient_evals` or `wall_s`.

    Returns:
        A figure; `style.save` writes it.

    Raises:
        ValueError: `x` is another column, or a required column is missing.
    """
    table, targets = anytime(frame, x), blackbox_target(frame)
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
            axes.set_ylabel("best validation loss")
            layout.spend_axis(axes, reports[x].max(), UNITS[x])
            silent = sorted(set(reports["method"]) - set(lines["method"]))
            _draw_task(axes, lines, targets[targets["task"] == task], silent)
        notes = ["median over seeds and interquartile band", *KEYS]
        if any(line.get_gid() == "stop" for axes in panels for line in axes.lines):
            notes.append("cross: interrupted")
        layout.caption(figure, notes, wide=len(panels) > 1)
    return figure


def _draw_task(
    axes: Axes, table: pd.DataFrame, target: pd.DataFrame, silent: list[str]
) -> None:
    """Draw one task: bands, lines, the target, and the lines' names."""
    silence = f"no value in half of its seeds: {', '.join(map(shorten, silent))}"
    if not len(table):
        layout.blank(axes, silence)
        return
    goal = target["target"].median() if len(target) else np.nan
    layout.scale(axes.yaxis, *y_range(table, goal))
    labels = [
        _draw_method(axes, method, family, line)
        for (method, family), line in table.groupby(["method", "family"])
    ]
    if len(target):
        _draw_target(axes, target["method"].iloc[0], goal)
    layout.label_ends(axes, labels, height=HEIGHT)
    if silent:
        layout.remark(axes, silence, y=0.96)


def _draw_method(
    axes: Axes, method: str, family: str, line: pd.DataFrame
) -> layout.EndLabel:
    """Draw one method's band and median; return the label of its end."""
    shade = style.colour(method)
    upper = line["q75"].fillna(10 * max(line["q25"].max(), axes.get_ylim()[1]))
    axes.fill_between(
        *(line["x"], line["q25"], upper),
        step="post",
        color=shade,
        alpha=0.13,
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
    """Choose what losses to show so that an awful start does not flatten the rest.

    Args:
        table: `anytime` of one task.
        goal: A loss that must be in sight, or NaN.

    Returns:
        The lowest and the highest loss. Every line's end is in sight (unless it is
        over 100 times the best one), and above them at most three times their
        spread or, where the ends are close, four fifths of all lines.
    """
    ends = table.groupby("method")["median"].last()
    ends = ends[ends <= 100 * ends.min()] if ends.min() > 0 else ends
    table = table[table["method"].isin(ends.index)]
    spent = np.linspace(0, table["x"].max(), 200)
    seen = []
    for _, line in table.groupby("method"):
        index = np.searchsorted(line["x"], spent, side="right") - 1
        tops = line["q75"].fillna(line["median"]).to_numpy()
        seen.append(tops[index[index >= 0]])
    most, nearly_all = np.quantile(np.concatenate(seen), [0.8, 0.97])
    low = np.nanmin([table["q25"].min(), goal])
    high = min(nearly_all, max(most, low + 4 * (ends.max() - low)))
    return float(low), float(max(high, ends.max()))
