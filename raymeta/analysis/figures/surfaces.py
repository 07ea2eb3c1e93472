"""The loss over two hyperparameters, with the way that every method took on it."""

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from raymeta.analysis.figures import layout, style
from raymeta.analysis.figures.legend import OF_EACH, methods_to_label
from raymeta.analysis.tables.frames import studies
from raymeta.analysis.tables.incumbents import incumbents
from raymeta.analysis.tables.surfaces import Surface, is_logarithmic, surface_of
from raymeta.analysis.tables.text import number, shorten
from raymeta.results.schema import HYPERGRADIENT, PREFIX

LEVELS = 14


def draw_surface(rows: pd.DataFrame, frame: pd.DataFrame) -> Figure:
    """Draw the loss as contours, and each method's way over it.

    Solid lines are the walks of hypergradient methods, a dot per report; small dots are
    the trials of black-box methods and hybrids, dashed and dash-dotted lines lead from
    one best trial to the next. A star is where a method's best run was. All belong to
    the surface's seed. Of more than ten methods the ten of `methods_to_label` there are
    drawn. The surface is a slice: hyperparameters that are not shown stand still on it,
    but moved on the way.

    Args:
        rows: one task's, as `raymeta.outer.landscape.loss_surface` returns them.
        frame: the comparison's, one row per report.

    Returns:
        A figure; `style.save` writes it.

    Raises:
        ValueError: other than two hyperparameters vary in `rows`.
    """
    surface = surface_of(rows)
    same = (frame["task"] == surface.task) & (frame["seed"] == surface.seed)
    named = methods_to_label(studies(frame[same]))
    reports = frame[same & (frame["status"] != "final") & frame["method"].isin(named)]
    with style.context():
        figure, (axes,) = layout.panels(1, across=1, width=7.2, height=5.0)
        axes.set_title(f"{surface.task}: validation loss after a full run")
        axes.grid(visible=False)
        _draw_contours(figure, axes, surface)
        ways = {family: reports[reports["family"] == family] for family in OF_EACH}
        handles = [
            _draw_way(axes, surface.names, method, rows)
            for of_family in ways.values()
            for method, rows in of_family.groupby("method")
        ]
        _frame_axes(axes, surface)
        if handles:
            axes.legend(
                handles=handles,
                loc="upper center",
                bbox_to_anchor=(0.5, -0.13),
                ncols=min(5, len(handles)),
                handlelength=3.2,
                columnspacing=1.4,
            )
        notes = [
            "star: best run",
            "dots: reports, or black-box trials",
            "dashed, dash-dotted: from best trial to best trial",
            f"seed {surface.seed}",
        ]
        layout.caption(figure, notes, wide=True)
        layout.alarm(figure, frame[frame["task"] == surface.task])
    return figure


def _draw_contours(figure: Figure, axes: Axes, surface: Surface) -> None:
    """Fill between losses that divide the grid's area equally: dark is low."""
    finite = surface.loss[np.isfinite(surface.loss)]
    if not len(finite) or np.ptp(finite) == 0:
        layout.remark(axes, "no two finite losses on the grid")
        return
    # Between a small loss and that of a run that diverged, decades lie.
    height, back = (np.log, np.exp) if finite.min() > 0 else (np.array, np.array)
    levels = np.unique(np.quantile(height(finite), np.linspace(0, 1, LEVELS)))
    drawn = axes.contourf(
        *(surface.x, surface.y, np.ma.masked_invalid(height(surface.loss))),
        levels=levels,
        cmap=_colours(),
        norm=BoundaryNorm(levels, 256),
    )
    bar = figure.colorbar(drawn, ax=axes, pad=0.02, aspect=30, spacing="uniform")
    shown = levels[::2]
    bar.set_ticks(list(shown), labels=[number(loss) for loss in back(shown)])
    bar.set_label("validation loss")
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0)


def _draw_way(
    axes: Axes, names: tuple[str, str], method: str, rows: pd.DataFrame
) -> Line2D:
    """Draw one method's way; return the line that stands for it in the legend."""
    x, y = (f"{PREFIX}{name}" for name in names)
    rows = rows.dropna(subset=[x, y]).sort_values("gradient_evals", kind="stable")
    best, shade = incumbents(rows), style.colour(method)
    walk = (rows["family"] == HYPERGRADIENT).all()
    axes.plot(
        *(rows[x], rows[y]),
        linestyle="",
        marker="o",
        markersize=2.2 if walk else 2.8,
        color=shade,
        markeredgewidth=0,
        alpha=0.9 if walk else 0.45,
        gid=f"dots {method}",
    )
    line = rows if walk else best
    dashes = style.dashes(line["family"].iloc[0]) if len(line) else "-"
    for width, ink, order in ((2.6, "white", 3), (1.3, shade, 4)):
        axes.plot(
            *(line[x], line[y]),
            color=ink,
            linewidth=width,
            linestyle=dashes if order == 4 else "-",
            alpha=1 if order == 4 else 0.55,
            zorder=order,
            gid=f"way {method}" if order == 4 else None,
        )
    axes.plot(
        *(best[x].tail(1), best[y].tail(1)),
        linestyle="",
        marker="*",
        markersize=12,
        color=shade,
        markeredgecolor="white",
        zorder=5,
        gid=f"best {method}",
    )
    return Line2D([], [], color=shade, linestyle=dashes, label=shorten(method))


def _frame_axes(axes: Axes, surface: Surface) -> None:
    """Show just the grid, logarithmic where it is."""
    for axis, grid, name in zip(
        (axes.xaxis, axes.yaxis), (surface.x, surface.y), surface.names, strict=True
    ):
        limits = axes.set_xlim if axis is axes.xaxis else axes.set_ylim
        if is_logarithmic(grid):
            layout.scale(axis, grid[0], grid[-1], pad=0)
        limits(grid[0], grid[-1])
        axis.set_label_text(name)


def _colours() -> LinearSegmentedColormap:
    """Blue-grey from dark (low) to nearly white: ways in any colour stand out."""
    samples = colormaps["bone"](np.linspace(0.42, 0.98, 256))
    return LinearSegmentedColormap.from_list("loss", samples)
