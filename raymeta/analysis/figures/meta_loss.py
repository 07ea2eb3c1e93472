"""Loss of a meta-training, and what adaptation achieves in the end."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from raymeta.analysis.figures import layout, style
from raymeta.analysis.tables.training import describe, held_out, metrics, training_curve

TRAIN, VAL, TEST, PAPER = "#0072b2", "#d55e00", "#009e73", "#aa4499"
#: Means that are this many times the loss before adaptation are of tasks that diverge.
BEYOND = 10.0
LEGEND = {"loc": "best", "frameon": True, "framealpha": 0.8, "edgecolor": "none"}


def draw_meta_loss(
    frame: pd.DataFrame, published: Sequence[Mapping[str, Any]] = ()
) -> Figure:
    """Draw the loss over outer steps, and over inner steps on test tasks.

    Below it each metric likewise.

    Args:
        frame: see `read_training`.
        published: see `read_published`; for a line and a mark beside the losses.

    Returns:
        A figure; `style.save` writes it.
    """
    names = ["outer_loss", *metrics(frame)]
    with style.context():
        figure, panels = layout.panels(
            2 * len(names), across=2, width=4.8, height=3.4 if len(names) == 1 else 2.9
        )
        for place, name in enumerate(names):
            left, right = panels[2 * place : 2 * place + 2]
            figures = published if name == "outer_loss" else ()
            _draw_training(left, frame, name, figures)
            _draw_adaptation(right, frame, name, figures)
        layout.caption(figure, [*_notes(frame)], wide=True)
    return figure


def _notes(frame: pd.DataFrame) -> list[str]:
    notes = ["bars: 95 % intervals over tasks"]
    if frame.groupby(["seed", "rank"]).ngroups > 1:
        notes.insert(0, "band: single ranks and seeds")
    if not held_out(frame, "test").empty:
        notes.append("dotted: steps of training")
    return notes


def _draw_training(
    axes: Axes,
    frame: pd.DataFrame,
    name: str,
    published: Sequence[Mapping[str, Any]],
) -> None:
    curve, val = training_curve(frame, name), held_out(frame, "val", name)
    axes.set_title("meta-training")
    axes.set_xlabel("outer steps")
    axes.set_ylabel("outer loss" if name == "outer_loss" else name)
    if curve.empty:
        layout.blank(axes, "no outer step yet")
        return
    x = curve["outer_step"]
    axes.fill_between(
        *(x, curve["low"], curve["high"]), color=TRAIN, alpha=0.15, linewidth=0
    )
    axes.plot(x, curve["mean"], color=TRAIN, linewidth=1.5, label="training tasks")
    if not val.empty:
        _draw_interval(axes, val, "outer_step", VAL, "validation tasks")
    for figure in published:
        value, room = figure["value"], figure["ci95"]
        axes.axhspan(value - room, value + room, color=PAPER, alpha=0.15, linewidth=0)
        axes.axhline(
            *(value,), color=PAPER, linestyle="--", linewidth=1, label=_short(figure)
        )
    marks = pd.Series([figure["value"] for figure in published], dtype=float)
    _scale(axes, name, curve["mean"], val["mean"], marks, room=val["ci95"])
    axes.xaxis.set_major_formatter(lambda value, _: layout.tick(value))
    axes.legend(**LEGEND)


def _draw_adaptation(
    axes: Axes,
    frame: pd.DataFrame,
    name: str,
    published: Sequence[Mapping[str, Any]],
) -> None:
    test = held_out(frame, "test", name)
    axes.set_title("test tasks")
    axes.set_xlabel("inner steps")
    if test.empty:
        layout.blank(axes, "not evaluated yet")
        return
    is_loss = name == "outer_loss"
    _draw_interval(axes, test, "inner_steps", TEST, "mean" if is_loss else "")
    shown, room = [test["mean"]], test["ci95"]
    if is_loss:
        axes.plot(
            *(test["inner_steps"], test["median"]),
            color=TEST,
            linestyle="-.",
            linewidth=1,
            label="median",
        )
        far = test["mean"] > BEYOND * test["mean"].iloc[0]
        shown, room = [test["mean"][~far], test["median"]], room[~far]
        if far.any():
            axes.set_title(
                "the mean leaves the panel: tasks diverge",
                loc="right",
                color=style.MUTED,
                fontsize=8,
                fontweight="normal",
            )
    for figure in published:
        axes.errorbar(
            *(figure["inner_steps"], figure["value"]),
            yerr=figure["ci95"],
            color=PAPER,
            marker="D",
            markersize=4,
            linestyle="",
            label=describe(figure).partition(" after")[0],
        )
        shown.append(pd.Series([figure["value"]]))
    _scale(axes, name, *shown, room=room)
    axes.set_xticks(test["inner_steps"])
    trained = frame.loc[frame["split"] == "train", "inner_steps"].max()
    axes.axvline(trained, color=style.MUTED, linestyle=":", linewidth=1)
    if is_loss:
        axes.legend(**LEGEND)


def _draw_interval(
    axes: Axes, table: pd.DataFrame, x: str, colour: str, label: str
) -> None:
    axes.errorbar(
        table[x],
        table["mean"],
        yerr=table["ci95"],
        color=colour,
        linewidth=1.3,
        marker="o",
        markersize=3,
        elinewidth=0.8,
        label=label,
    )


def _short(figure: Mapping[str, Any]) -> str:
    """A published figure, for a legend."""
    return (
        f"{figure['source']}:\n{figure['value']:g} ± {figure['ci95']:g} after "
        f"{figure['outer_steps']:,} outer steps"
    )


def _scale(axes: Axes, name: str, *values: pd.Series, room: pd.Series) -> None:
    """Show all values, with the usual half of an interval as room."""
    every = np.concatenate([np.asarray(v, float) for v in values])
    every = every[np.isfinite(every)]
    if not len(every):
        layout.remark(axes, "no finite value was reported")
        return
    usual = float(room.median()) if room.notna().any() else 0.0
    least, high = float(every.min()), float(every.max()) + usual
    low = least - usual
    if name != "outer_loss":
        pad = 0.04 * (high - low or 1.0)
        axes.set_ylim(low - pad, high + pad)
        return
    # What is positive stays so: its axis may be logarithmic.
    low = max(low, least / 1.5) if least > 0 else low
    layout.scale(axes.yaxis, low, high)
