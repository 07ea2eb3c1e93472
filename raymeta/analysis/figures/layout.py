"""Layout of every figure: panels, axis scales, robust limits, labels at line ends."""

import math
from collections.abc import Iterable
from textwrap import fill
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullLocator,
)

from raymeta.analysis.figures import style
from raymeta.results.validity import reasons_of

DECADE = 10.0
UNIT_EDGE = 1e-4  # values of a unit interval are shown no nearer to its ends
STOPPED = 0.98  # a line that ends before this share of the x-axis was interrupted


def panels(
    count: int, *, across: int, width: float, height: float, below: float = 0.0
) -> tuple[Figure, list[Axes]]:
    """Make a figure of `count` panels, at most `across` in a row.

    Args:
        count: how many panels.
        across: the most in one row.
        width: one panel's, inches.
        height: one panel's, inches.
        below: room for a legend under all panels, inches.

    Returns:
        The figure and its panels, row by row.
    """
    across = min(across, count)
    down = math.ceil(count / across)
    size = (width * across, height * down + below)
    engine = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)
    figure = Figure(figsize=size, layout=engine)
    grid = figure.subplots(down, across, squeeze=False).ravel()
    for unused in grid[count:]:
        unused.remove()
    return figure, list(grid[:count])


def scale(
    axis: Axis, low: float, high: float, *, pad: float = 0.04, log: bool = True
) -> None:
    """Set an axis's limits: logarithmic when positive and more than a decade wide.

    Args:
        axis: `axes.xaxis` or `axes.yaxis`.
        low: the lowest value to show.
        high: the highest value to show.
        pad: room beyond both, as a share of the axis.
        log: whether it may be logarithmic.
    """
    is_y, axes = axis is axis.axes.yaxis, axis.axes
    set_limits = axes.set_ylim if is_y else axes.set_xlim
    if log and low > 0 and low * DECADE < high:
        (axes.set_yscale if is_y else axes.set_xscale)("log")
        room = (high / low) ** pad
        set_limits(low / room, high * room)
        steps = (1, 2, 5) if high / low < 200 else (1,)
        axis.set_major_locator(LogLocator(subs=steps, numticks=12))
        axis.set_minor_locator(NullLocator())
    else:
        room = pad * ((high - low) or abs(high) or 1.0)
        set_limits(low - room, high + room)
        axis.set_major_locator(MaxNLocator(5, steps=(1, 2, 2.5, 5, 10)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))


def domain_scale(axis: Axis, low: float, high: float, kind: str) -> None:
    """Set a y-axis's limits, on the scale in which its domain is walked.

    Args:
        axis: `axes.yaxis`.
        low: the lowest value to show.
        high: the highest value to show.
        kind: `Unit` gets a logit scale, `Real` a linear one, all else that of `scale`.
    """
    if kind == "Unit":
        low, high = (min(max(end, UNIT_EDGE), 1 - UNIT_EDGE) for end in (low, high))
        ends = np.log([low / (1 - low), high / (1 - high)])
        room = max(0.04 * np.ptp(ends), 0.1)
        axis.axes.set_yscale("logit", nonpositive="clip")
        axis.axes.set_ylim(*(1 / (1 + np.exp(-ends - [-room, room]))))
        axis.set_major_locator(FixedLocator(unit_ticks(low, high)))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
    else:
        scale(axis, low, high, log=kind != "Real")


def unit_ticks(low: float, high: float) -> list[float]:
    """Choose at most six ticks of a logit scale; the ends where fewer than two fit."""
    half = [UNIT_EDGE, 0.001, 0.01, 0.05, 0.1, 0.25]
    known = [*half, 0.5, *(1 - value for value in reversed(half))]
    inside = [value for value in known if low <= value <= high]
    return inside[:: math.ceil(len(inside) / 6)] if len(inside) > 1 else [low, high]


def tick(value: float) -> str:
    """Write a tick: 20,000 or 0.002, and 5e-4 or 2e6 beyond."""
    if abs(value) >= 1e6 or 0 < abs(value) < 0.9999e-3:
        digits, exponent = f"{value:.2e}".split("e")
        return f"{float(digits):g}e{int(exponent)}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.6g}"


def spend_axis(axes: Axes, end: float, unit: str) -> None:
    """Run the x-axis from nothing to all that was spent, in `unit`."""
    axes.set_xlim(0, end if end > 0 else 1)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=(1, 2, 2.5, 5, 10)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
    axes.set_xlabel(unit)


def remark(axes: Axes, text: str, *, y: float = 0.5) -> None:
    """Write a muted remark into a panel, at a share of its height."""
    axes.text(
        *(0.5, y, text),
        transform=axes.transAxes,
        color=style.MUTED,
        fontsize=8,
        ha="center",
        va="center",
    )


def blank(axes: Axes, text: str) -> None:
    """Say in a panel why it shows nothing, and take its ticks away."""
    axes.set_xticks([])
    axes.set_yticks([])
    remark(axes, text)


def caption(figure: Figure, notes: list[str], *, wide: bool) -> None:
    """Explain the marks below the panels: in one line, or in lines of two notes."""
    size = len(notes) if wide else 2
    lines = ["; ".join(notes[i : i + size]) for i in range(0, len(notes), size)]
    figure.supxlabel("\n".join(lines), fontsize=8, color=style.MUTED)


def alarm(figure: Figure, frame: pd.DataFrame) -> None:
    """Say above all panels that what is drawn is no valid comparison, if it is none.

    Args:
        figure: everything else is drawn.
        frame: the rows that it is about, see `raymeta.results.validity`.
    """
    tasks = reasons_of(frame)
    if not tasks:
        return
    text = f"INVALID: methods did not train on the same ({', '.join(tasks)})"
    above = figure.get_suptitle()
    text = "\n".join(filter(None, [fill(text, 60), above]))
    style_ = {"fontsize": 10, "fontweight": "bold", "color": style.ALARM}
    figure.suptitle(text, x=0.01, ha="left", **style_)


class EndLabel(NamedTuple):
    """A line's name, to be written beside its last point."""

    text: str
    colour: str
    x: float  # data units
    y: float  # data units


def label_ends(axes: Axes, labels: Iterable[EndLabel], *, height: float) -> None:
    """Write each line's name right of the panel, spread so that none overlap.

    A thin leader joins a line to its name. A line that stops before the panel's edge
    has a cross at its end instead: a leader would look as if it went on.

    Args:
        axes: the panel, its limits and scales set.
        labels: one per line.
        height: the panel's, inches.
    """
    labels, top = list(labels), axes.get_ylim()[1]
    to_share = axes.transScale + axes.transLimits
    ends = [to_share.transform((label.x, label.y)) for label in labels]
    places = spread([y for _, y in ends], 1.3 * 8.5 / 72 / (0.8 * height))
    for label, (x, y), place in zip(labels, ends, places, strict=True):
        stops = x < STOPPED
        if stops:
            axes.plot(label.x, label.y, "x", color=label.colour, ms=5, gid="stop")
        leader = {"color": label.colour, "linewidth": 0.6, "relpos": (0, 0.5)}
        leader |= {"arrowstyle": "-", "shrinkA": 2, "shrinkB": 0}
        axes.annotate(
            f"{label.text} ↑" if y > 1 else label.text,
            xy=(label.x, min(label.y, top)),
            xytext=(1.045, place),
            textcoords="axes fraction",
            color=label.colour,
            fontsize=8.5,
            va="center",
            annotation_clip=False,
            arrowprops=None if stops else leader,
        )


def spread(aims: Iterable[float], gap: float) -> list[float]:
    """Move places in [0, 1] apart, as little as possible, until `gap` lies between.

    Neighbours that are too close become a stack around their mean (isotonic regression
    by pooling adjacent violators).

    Args:
        aims: where each label would like to be; one outside is brought in.
        gap: the least distance, shrunk when all would not fit.

    Returns:
        A place per aim, in the order of `aims`.
    """
    aims = np.clip(list(aims), 0, 1)
    gap = min(gap, 1 / max(1, len(aims) - 1))
    order = np.argsort(aims, kind="stable")
    offsets = gap * np.arange(len(aims))
    stacks: list[list[float]] = []
    for aim in aims[order] - offsets:
        stacks.append([aim])
        while len(stacks) > 1 and np.mean(stacks[-2]) > np.mean(stacks[-1]):
            stacks[-2:] = [stacks[-2] + stacks[-1]]
    means = [float(np.mean(stack)) for stack in stacks for _ in stack]
    places = np.empty(len(aims))
    places[order] = np.clip(means, 0, 1 - gap * max(0, len(aims) - 1)) + offsets
    return places.tolist()
