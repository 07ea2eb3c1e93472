"""The row of loss curves: loss over time over step size, in three dimensions."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from mpl_toolkits.mplot3d import Axes3D

from raymeta.analysis.figures import layout, style
from raymeta.analysis.tables.incumbents import ONLINE, best_run
from raymeta.analysis.tables.surfaces import Surface, is_logarithmic, surface_of
from raymeta.analysis.tables.text import number
from raymeta.results.schema import HYPERGRADIENT, PREFIX

DECADES = 100.0  # losses that span more are shown as logarithms
WAYS = 2  # of each kind that are drawn: more could not be followed


def draw_curve_row(rows: pd.DataFrame, frame: pd.DataFrame) -> Figure:
    """Draw a loss curve per value of the surface's first hyperparameter, in a row.

    The second one stands still, near the best run of hypergradient methods. A method
    that changes hyperparameters while training goes on hops across the curves; one that
    changes them between full runs walks along their end points. The two best of each
    kind are drawn.

    Args:
        rows: one task's, as `raymeta.outer.landscape.loss_surface` returns them.
        frame: the comparison's, one row per report.

    Returns:
        A figure; `style.save` writes it.

    Raises:
        ValueError: other than two hyperparameters vary in `rows`.
    """
    surface = surface_of(rows)
    name, other = surface.names
    same = (frame["task"] == surface.task) & (frame["seed"] == surface.seed)
    walks = frame[
        same & (frame["status"] != "final") & (frame["family"] == HYPERGRADIENT)
    ]
    kept = _kept(surface, walks)
    curves = rows[rows[f"{PREFIX}{other}"] == kept]
    scales = _scales(curves, walks, surface)
    with style.context():
        figure = Figure(figsize=(7.2, 5.6))
        axes = figure.add_axes((0.02, 0.07, 0.92, 0.82), projection="3d")
        title = f"{surface.task}: loss curves over {name}"
        figure.text(0.02, 0.955, title, fontsize=10, fontweight="bold")
        _draw_curves(axes, curves, surface, scales)
        for method in _followed(walks):
            walk = walks[walks["method"] == method]
            _draw_walk(axes, method, walk, f"{PREFIX}{name}", scales)
        _frame_axes(axes, name, scales)
        if len(axes.lines) > len(surface.x):
            figure.legend(loc="upper left", bbox_to_anchor=(0.0, 0.94), ncols=4)
        note = f"grey curves: {other} = {number(kept)}; seed {surface.seed}"
        figure.text(0.5, 0.015, note, fontsize=8, color=style.MUTED, ha="center")
        layout.alarm(figure, frame[frame["task"] == surface.task])
    return figure


def _followed(walks: pd.DataFrame) -> list[str]:
    """The methods of lowest loss, some that change λ within a run, some between.

    Of two that compute the same hypergradient, and so go the same way, one.
    """
    kinds: dict[bool, list[str]] = {True: [], False: []}
    best = walks.groupby("method")["best_outer_loss"].min().dropna().sort_values()
    same = np.isclose(best, best.shift(), rtol=1e-3, atol=0.0)
    for method in best.index[~same]:
        run = best_run(walks[walks["method"] == method])
        kinds[len(run) > ONLINE].append(str(method))
    return sorted(method for names in kinds.values() for method in names[:WAYS])


def _kept(surface: Surface, walks: pd.DataFrame) -> float:
    """The grid's value of the second hyperparameter nearest to the best run's."""
    full = walks[walks["status"] == "complete"].dropna(subset=["outer_loss"])
    if len(full):
        lowest = full.sort_values("outer_loss", kind="stable")
        best = lowest[f"{PREFIX}{surface.names[1]}"].iloc[0]
        return float(surface.y[np.abs(surface.y - best).argmin()])
    rows = np.nanmin(surface.loss, axis=1, initial=np.inf)
    return float(surface.y[rows.argmin()])


class Scales(NamedTuple):
    """Which axes show logarithms: 3-D axes have no logarithmic scale of their own.

    Attributes:
        depth: whether the hyperparameter's does.
        height: whether the loss's does.
        top: the highest loss that is shown.
    """

    depth: bool
    height: bool
    top: float

    def place(self, values: pd.Series) -> np.ndarray:
        """Places along the row."""
        return (
            np.log10(values.to_numpy(float)) if self.depth else values.to_numpy(float)
        )

    def level(self, losses: pd.Series) -> np.ndarray:
        """Heights; what is not finite is at the top."""
        known = losses.where(np.isfinite(losses), self.top).clip(upper=self.top)
        return np.log10(known.to_numpy(float)) if self.height else known.to_numpy(float)


def _scales(curves: pd.DataFrame, walks: pd.DataFrame, surface: Surface) -> Scales:
    """Choose: the start is in sight, and decades of loss are told apart."""
    top = 1.1 * float(curves.loc[curves["inner_steps"] == 0, "outer_loss"].max())
    low = float(curves["outer_loss"].min())
    logarithmic = 0 < low < top / DECADES and not (walks["outer_loss"] <= 0).any()
    return Scales(is_logarithmic(surface.x), logarithmic, top)


def _draw_curves(
    axes: Axes3D, curves: pd.DataFrame, surface: Surface, scales: Scales
) -> None:
    """Draw the row."""
    column = f"{PREFIX}{surface.names[0]}"
    shades = colormaps["bone"](np.linspace(0.25, 0.75, len(surface.x)))
    for shade, (value, curve) in zip(shades, curves.groupby(column), strict=True):
        curve = curve.sort_values("inner_steps")
        axes.plot(
            curve["inner_steps"],
            scales.place(curve[column]),
            scales.level(curve["outer_loss"]),
            color=shade,
            linewidth=1.0,
            gid=f"curve {number(value)}",
        )


def _draw_walk(
    axes: Axes3D, method: str, walk: pd.DataFrame, column: str, scales: Scales
) -> None:
    """Draw a run in which λ changes, or the end points of runs at constant λ."""
    run = best_run(walk)
    within = len(run) > ONLINE
    shown = run if within else walk[walk["status"] == "complete"]
    shown = shown.sort_values("gradient_evals", kind="stable")
    what = "within its best run" if within else "from run to run"
    axes.plot(
        shown["inner_steps"],
        scales.place(shown[column]),
        scales.level(shown["outer_loss"]),
        color=style.colour(method),
        linewidth=2.0,
        marker="o",
        markersize=2.5 if within else 4.5,
        label=f"{method}\n{what}",
        zorder=10,
        gid=f"way {method}",
    )


def _frame_axes(axes: Axes3D, name: str, scales: Scales) -> None:
    """Label, and look at the row from where the curves begin."""
    axes.set_xlabel("training steps")
    axes.set_ylabel(name)
    axes.set_zlabel("validation loss")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    for axis, log in ((axes.yaxis, scales.depth), (axes.zaxis, scales.height)):
        axis.set_major_locator(MaxNLocator(5, integer=log))
        if log:
            axis.set_major_formatter(FuncFormatter(lambda v, _: layout.tick(10**v)))
    for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
        axis.set_pane_color((1, 1, 1, 0))
    axes.view_init(elev=26, azim=-58)
    axes.set_box_aspect((1.3, 1.3, 0.85), zoom=1.12)
