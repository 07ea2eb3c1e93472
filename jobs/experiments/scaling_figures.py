"""Figures of a data set that is learnt by more and more workers.

They are drawn from what `jobs.experiments.scaling` writes: its frame, with one row
per `inner_lr`, `workers`, `seed` and `outer_step`, and the tables beside it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from jobs.experiments.scaling_tables import interval, last, median_seeds
from raymeta.analysis.figures import layout, style

CLASSES = ("#0072b2", "#d55e00")
BEFORE = "#b5b5b5"
#: Of the fresh classifiers that cross a panel of the row, how many are drawn.
LINES = 8


class Measure(NamedTuple):
    """A column of the frame, as figures say it."""

    column: str
    title: str


MEASURES = (
    Measure("meta_loss", "loss of fresh classifiers"),
    Measure("gap_ratio", "gap / deviation within classes"),
    Measure("best_line", "accuracy of the best line"),
    Measure("accuracy", "accuracy of fresh classifiers"),
)


def draw_row(
    frame: pd.DataFrame, points: pd.DataFrame, lines: pd.DataFrame, inner_lr: float
) -> Figure:
    """Draw what is learnt with an inner learning rate, a panel per number of workers.

    Each shows the seed of the median ratio, at a scale of its own.

    Args:
        frame: see the module.
        points: one row per learned point: `x`, `y`, `label`.
        lines: one row per fresh classifier and `inner_steps`: `w_x`, `w_y`, `b`.
        inner_lr: which.
    """
    seeds = median_seeds(frame[frame["inner_lr"] == inner_lr])
    steps = lines["inner_steps"].max()
    with style.context():
        figure, panels = layout.panels(
            len(seeds), across=4, width=2.9, height=2.8, below=0.6
        )
        for axes, run in zip(panels, seeds.itertuples(), strict=True):
            same = {"inner_lr": inner_lr, "workers": run.workers, "seed": run.seed}
            _draw_points(axes, _where(points, **same))
            _draw_lines(axes, _where(lines, **same))
            axes.set_title(_workers(run.workers))
            axes.set_title(
                f"ratio {run.gap_ratio:.1f}, best line {100 * run.best_line:.0f} %",
                loc="right",
                color=style.MUTED,
                fontsize=7.5,
                fontweight="normal",
            )
        _legend(
            figure,
            _key(steps),
            f"inner rate {inner_lr:g}; the seed of median ratio, a scale for each "
            "panel; lines: fresh classifiers that cross it",
        )
    return figure


def _draw_points(axes: Axes, points: pd.DataFrame) -> None:
    """Draw both classes in a square view around the origin that holds them all."""
    for label, group in points.groupby("label"):
        axes.plot(
            *(group["x"], group["y"], "o"),
            color=CLASSES[int(label)],
            markersize=3.4,
            markeredgecolor="white",
            markeredgewidth=0.3,
            zorder=3,
            gid=f"label {int(label)}",
        )
    view = 1.12 * float(points[["x", "y"]].abs().to_numpy().max())
    axes.set(xlim=(-view, view), ylim=(-view, view), aspect="equal")
    axes.locator_params(nbins=5)


def _draw_lines(axes: Axes, lines: pd.DataFrame) -> None:
    """Draw w·x + b = 0 of the first classifiers that end within the view."""
    view, steps = axes.get_xlim()[1], lines["inner_steps"].max()
    norm = np.hypot(lines["w_x"], lines["w_y"])
    # The foot of the perpendicular from the origin.
    lines = lines.assign(
        x=-lines["b"] * lines["w_x"] / norm**2, y=-lines["b"] * lines["w_y"] / norm**2
    )
    ends = lines[(lines["inner_steps"] == steps) & (lines["b"].abs() < view * norm)]
    shown = lines[lines["classifier"].isin(ends["classifier"].head(LINES))]
    for line in shown.itertuples():
        after = line.inner_steps == steps
        axes.axline(
            (line.x, line.y),
            (line.x - line.w_y, line.y + line.w_x),
            color=style.INK if after else BEFORE,
            linewidth=0.6 if after else 1.4,
            zorder=2 if after else 1,
            gid="after" if after else "before",
        )


def _key(steps: int) -> list[Line2D]:
    """What the marks of the row are."""
    classes = [
        Line2D([], [], color=shade, marker="o", linestyle="", ms=4, label=f"class {k}")
        for k, shade in enumerate(CLASSES)
    ]
    before = Line2D([], [], color=BEFORE, linewidth=1.4, label="before")
    after = Line2D([], [], color=style.INK, linewidth=0.6)
    after.set_label(f"after {steps} steps")
    return [*classes, before, after]


def draw_curves(frame: pd.DataFrame) -> Figure:
    """Draw the measures over outer steps: means over seeds, and 95 % intervals.

    A row of panels per inner rate, a line per number of workers.
    """
    with style.context():
        figure, grid = _grid(frame, [measure.title for measure in MEASURES], 2.9)
        for inner_lr, row in grid.items():
            rows = frame[frame["inner_lr"] == inner_lr]
            for axes, measure in zip(row, MEASURES, strict=True):
                found = interval(rows, ["workers", "outer_step"], measure.column)
                _draw_bands(axes, found, "outer_step")
                _fit(axes, found)
                layout.spend_axis(axes, frame["outer_step"].max(), "outer steps")
        _legend(figure, _workers_key(frame), _means(frame))
    return figure


def draw_inner_steps(inner_steps: pd.DataFrame) -> Figure:
    """Draw what fresh classifiers achieve on what was learnt, after more inner steps.

    Args:
        inner_steps: one row per run and `inner_steps`: `loss`, `accuracy`.
    """
    ticks = sorted(inner_steps["inner_steps"].unique())
    titles = {"loss": MEASURES[0].title, "accuracy": MEASURES[-1].title}
    with style.context():
        figure, grid = _grid(inner_steps, [*titles.values()], 4.0)
        for inner_lr, row in grid.items():
            rows = inner_steps[inner_steps["inner_lr"] == inner_lr]
            for axes, column in zip(row, titles, strict=True):
                found = interval(rows, ["workers", "inner_steps"], column)
                _draw_bands(axes, found, "inner_steps")
                axes.set_xscale("symlog", linthresh=ticks[1])
                axes.set_xticks(ticks, [layout.tick(value) for value in ticks])
                axes.set_xticks([], minor=True)
                axes.set(xlim=(0, ticks[-1]), xlabel="inner steps")
        _legend(figure, _workers_key(inner_steps), _means(inner_steps))
    return figure


def draw_workers(frame: pd.DataFrame) -> Figure:
    """Draw the measures in the end over the number of workers; dots are seeds."""
    ends, workers = last(frame), sorted(frame["workers"].unique())
    rates = sorted(frame["inner_lr"].unique())
    with style.context():
        count = len(MEASURES)
        figure, panels = layout.panels(
            count, across=count, width=2.9, height=2.4, below=0.6
        )
        for axes, measure in zip(panels, MEASURES, strict=True):
            for place, inner_lr in enumerate(rates):
                rows = ends[ends["inner_lr"] == inner_lr]
                aside = 1.08 ** (2 * place - len(rates) + 1)
                colour = style.colour(f"inner rate {inner_lr:g}")
                x = rows["workers"] * aside
                axes.plot(x, rows[measure.column], ".", color=colour, alpha=0.3, ms=4)
                found = interval(rows, ["workers"], measure.column)
                axes.errorbar(
                    *(found["workers"] * aside, found["mean"], found["half"]),
                    color=colour,
                    marker="o",
                    markersize=4,
                    capsize=2,
                    label=f"inner rate {inner_lr:g}",
                )
            axes.set_xscale("log", base=2)
            axes.set_xticks(workers, map(str, workers))
            axes.set_title(measure.title)
            axes.set_xlabel("workers")
        _legend(figure, panels[0].get_legend_handles_labels()[0], _means(frame))
    return figure


def _grid(
    frame: pd.DataFrame, titles: list[str], width: float
) -> tuple[Figure, dict[float, list[Axes]]]:
    """A panel per inner rate and title: the figure, and a row of panels by rate."""
    rates, across = sorted(frame["inner_lr"].unique()), len(titles)
    count = len(rates) * across
    figure, panels = layout.panels(
        count, across=across, width=width, height=2.3, below=0.6
    )
    for axes, title in zip(panels, titles, strict=False):
        axes.set_title(title)
    rows = [panels[i : i + across] for i in range(0, len(panels), across)]
    for inner_lr, row in zip(rates, rows, strict=True):
        row[0].set_ylabel(f"inner rate {inner_lr:g}")
    return figure, dict(zip(rates, rows, strict=True))


def _draw_bands(axes: Axes, found: pd.DataFrame, x: str) -> None:
    """Draw a line and its interval per number of workers."""
    counts = sorted(found["workers"].unique())
    for workers, line in found.groupby("workers"):
        shade = _shade(counts.index(workers), len(counts))
        low, high = line["mean"] - line["half"], line["mean"] + line["half"]
        axes.fill_between(line[x], low, high, color=shade, alpha=0.15, linewidth=0)
        axes.plot(line[x], line["mean"], color=shade, linewidth=1.5)


def _fit(axes: Axes, found: pd.DataFrame) -> None:
    """Show all but what a falling curve reaches in the first half only."""
    half, steps = found["half"].fillna(0), found["outer_step"]
    low, high = found["mean"] - half, found["mean"] + half
    bottom, top = low.min(), high[steps >= steps.max() / 2].max()
    room = 0.05 * (top - bottom)
    axes.set_ylim(bottom - room, top + room)


def _workers_key(frame: pd.DataFrame) -> list[Line2D]:
    counts = sorted(frame["workers"].unique())
    return [
        Line2D([], [], color=_shade(place, len(counts)), label=_workers(workers))
        for place, workers in enumerate(counts)
    ]


def _means(frame: pd.DataFrame) -> str:
    return f"means over {frame['seed'].nunique()} seeds and their 95 % intervals"


def _legend(figure: Figure, handles: Sequence[Artist], notes: str) -> None:
    """Explain below the panels."""
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=len(handles),
        title=notes,
        title_fontproperties={"size": 7.5},
    )


def _shade(place: int, count: int) -> str:
    """From light to dark: the more workers, the darker."""
    return to_hex(colormaps["viridis"](0.8 - 0.75 * place / max(1, count - 1)))


def _workers(count: int) -> str:
    return "1 worker" if count == 1 else f"{count} workers"


def _where(table: pd.DataFrame, **values: float) -> pd.DataFrame:
    """The rows with these values."""
    return table[(table[[*values]] == pd.Series(values)).all(axis=1)]


def write_figures(folder: str | Path) -> list[Path]:
    """Draw all figures of the tables in a folder, into it.

    Returns:
        The files, PNG and SVG each: `row_<inner rate>` per inner rate, `curves`,
        `workers` and `inner_steps`.
    """
    folder = Path(folder)
    names = ("frame", "points", "lines", "inner_steps")
    frame, points, lines, inner_steps = (
        pd.read_parquet(folder / f"{name}.parquet") for name in names
    )
    files = []
    for inner_lr in sorted(frame["inner_lr"].unique()):
        figure = draw_row(frame, points, lines, inner_lr)
        files += style.save(figure, folder / f"row_{inner_lr:g}")
    files += style.save(draw_curves(frame), folder / "curves")
    files += style.save(draw_workers(frame), folder / "workers")
    files += style.save(draw_inner_steps(inner_steps), folder / "inner_steps")
    return files
