"""How meta-training went: its loss, and what adaptation achieves in the end."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from raymeta.analysis import layout, style
from raymeta.analysis.meta_frames import held_out, training_curve

TRAIN, VAL, TEST = "#0072b2", "#d55e00", "#009e73"


def draw_meta_loss(frame: pd.DataFrame) -> Figure:
    """Draw the loss over outer steps, and over inner steps on test tasks.

    Args:
        frame: Of `read_training`.

    Returns:
        A figure; `style.save` writes it.
    """
    with style.context():
        figure, (left, right) = layout.panels(2, across=2, width=4.8, height=3.6)
        _draw_training(left, frame)
        _draw_adaptation(right, frame)
        notes = ["band: single ranks and seeds", "bars: 95 % intervals over tasks"]
        layout.caption(figure, notes, wide=True)
    return figure


def _draw_training(axes: Axes, frame: pd.DataFrame) -> None:
    curve, val = training_curve(frame), held_out(frame, "val")
    axes.set_title("meta-training")
    axes.set_xlabel("outer steps")
    axes.set_ylabel("outer loss")
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
    layout.scale(axes.yaxis, *_range(curve["mean"], val["mean"], room=val["ci95"]))
    axes.legend(loc="upper right")


def _draw_adaptation(axes: Axes, frame: pd.DataFrame) -> None:
    test = held_out(frame, "test")
    axes.set_title("adaptation to test tasks")
    axes.set_xlabel("inner steps")
    if test.empty:
        layout.blank(axes, "not evaluated yet")
        return
    _draw_interval(axes, test, "inner_steps", TEST, "")
    layout.scale(axes.yaxis, *_range(test["mean"], room=test["ci95"]))
    axes.set_xticks(test["inner_steps"])
    trained = frame.loc[frame["split"] == "train", "inner_steps"].max()
    axes.axvline(trained, color=style.MUTED, linestyle=":", linewidth=1)
    axes.set_title(
        "dotted: steps of training",
        loc="right",
        color=style.MUTED,
        fontsize=8,
        fontweight="normal",
    )


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


def _range(*values: pd.Series, room: pd.Series) -> tuple[float, float]:
    """The least and the greatest value, with the usual half of an interval as room."""
    every = np.concatenate([np.asarray(v, float) for v in values])
    every = every[np.isfinite(every)]
    usual = float(room.median()) if room.notna().any() else 0.0
    return float(every.min()) - usual, float(every.max()) + usual
