"""Diagnosis of a hypergradient: E beside the start, and how sensitivities grow."""

from collections.abc import Mapping
from textwrap import fill
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from raymeta.analysis.figures import layout, style
from raymeta.analysis.tables.text import number

EXACT, SEEN, TANGENT = "#d55e00", style.INK, "#0072b2"


class Profile(NamedTuple):
    """E along the gradient.

    Attributes:
        x: where it was looked at, in steps of the descents' coordinates.
        outer_loss: E there; NaN where it was not finite.
        tangent: E at the start and its exact slope, at the same x.
        chord: the slope of the differences through the start.
    """

    x: np.ndarray
    outer_loss: np.ndarray
    tangent: np.ndarray
    chord: np.ndarray


def profile(record: Mapping[str, Any]) -> Profile | None:
    """Return what the first panel shows; None where no slope was looked at.

    Args:
        record: `Diagnosis.record`, or `found` of a diagnosis.json.
    """
    if not record["slopes"]:
        return None
    slope, start = record["slopes"][0], record["outer_loss"]
    x = record["step"] * np.array([-1.0, 0.0, 1.0])
    seen = np.array([slope["below"], start, slope["above"]], float)  # None is NaN
    exact, difference = (
        np.nan if slope[name] is None else slope[name]
        for name in ("exact", "difference")
    )
    return Profile(x, seen, start + exact * x, start + difference * x)


def draw_diagnosis(record: Mapping[str, Any]) -> Figure:
    """Draw E along the gradient with its exact slope, and sensitivities over steps.

    Args:
        record: `Diagnosis.record`, or `found` of a diagnosis.json.

    Returns:
        A figure; `style.save` writes it.
    """
    with style.context():
        figure, (left, right) = layout.panels(2, across=2, width=4.2, height=3.4)
        left.set_title("outer loss along the gradient")
        left.set_xlabel("step in the descents' coordinates (log λ)")
        right.set_title("sensitivity over the run")
        right.set_xlabel("training step t")
        found = profile(record)
        if found is None:
            layout.blank(left, "nothing to differentiate")
        else:
            _draw_profile(left, found)
        _draw_growth(right, record)
        layout.caption(
            figure, [fill(f"{record['task']}: {record['line']}", 100)], wide=True
        )
    return figure


def _draw_profile(axes: Axes, found: Profile) -> None:
    axes.plot(*(found.x, found.tangent), color=EXACT, label="exact slope", gid="exact")
    axes.plot(
        *(found.x, found.chord),
        color=style.MUTED,
        linestyle=(0, (4, 1.6)),
        label="slope of the runs",
        gid="chord",
    )
    axes.plot(
        *(found.x, found.outer_loss),
        linestyle="",
        marker="o",
        color=SEEN,
        label="runs",
        gid="runs",
    )
    finite = np.concatenate([found.outer_loss, found.tangent])
    finite = finite[np.isfinite(finite)]
    layout.scale(axes.yaxis, finite.min(), finite.max(), pad=0.08, log=False)
    axes.set_ylabel("outer loss")
    axes.legend(loc="best")


def _draw_growth(axes: Axes, record: Mapping[str, Any]) -> None:
    rate = record["exponent"]
    grows = "" if rate is None else f", e^({number(rate)} t) backwards"
    lines = {
        f"adjoint |dE/ds|{grows}": (record["adjoint"], EXACT, "-"),
        "tangent |ds/dλ|, of the runs": (record["tangent"], TANGENT, (0, (4, 1.6))),
    }
    shown = []
    for label, (values, colour, dashes) in lines.items():
        y = np.array(values, float)
        positive = np.isfinite(y) & (y > 0)
        t = np.array(record["times"], float)[positive]
        if len(t):
            gid = label.split()[0]
            axes.plot(t, y[positive], label=label, gid=gid, color=colour, marker="o")
            axes.lines[-1].set(linestyle=dashes, markersize=3)
            shown.append(y[positive])
    if not shown:
        layout.blank(axes, "nothing to differentiate")
        return
    low, high = (f(np.concatenate(shown)) for f in (np.min, np.max))
    layout.scale(axes.yaxis, low, high, pad=0.08)
    axes.set_xlim(0, record["horizon"])
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.legend(loc="best")
