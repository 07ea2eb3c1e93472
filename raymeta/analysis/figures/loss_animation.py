"""Training improves while hyperparameters are learnt: a loss curve that moves."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.animation import PillowWriter
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.ticker import MaxNLocator

from raymeta.analysis.figures import layout, style
from raymeta.analysis.figures.loss_curves import y_range
from raymeta.analysis.tables.loss_curves import loss_curves
from raymeta.analysis.tables.text import number
from raymeta.results.schema import PREFIX

FPS = 2
HOLD = 5  # frames that the last curve stays
DPI = 110
NAMED = 4  # hyperparameters that are named


def write_loss_animation(
    curves: pd.DataFrame, path: str | Path, *, title: str = ""
) -> Path:
    """Write a GIF in which the loss curve of one run after the other is drawn.

    Args:
        curves: columns `outer_step` (the run), `inner_steps`, `outer_loss`, and perhaps
            `hp/<name>…`, whose first four stand below.
        path: the file, ending in .gif; its folder is made when missing.
        title: above the panel.

    Returns:
        The path.

    Raises:
        ValueError: A column is missing, or no loss is finite.
    """
    split = {step: line for step, line in loss_curves(curves).items() if len(line)}
    if not split:
        raise ValueError(
            "an animation needs a finite loss, but no curve has one: start elsewhere"
        )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # perhaps a link to elsewhere
    steps = list(split)
    shades = colormaps["viridis"](np.linspace(0, 0.88, max(2, len(steps))))
    with style.context():
        figure, (axes,) = layout.panels(1, across=1, width=6.4, height=4.0)
        FigureCanvasAgg(figure)
        writer = PillowWriter(fps=FPS)
        with writer.saving(figure, str(path), DPI):
            for place, step in enumerate(steps):
                axes.clear()
                _frame(axes, split, title)
                for before, shade in zip(steps[:place], shades, strict=False):
                    axes.plot(*split[before].T, color=shade, alpha=0.35, linewidth=0.9)
                axes.plot(*split[step].T, color=shades[place], linewidth=2.2)
                axes.plot(*split[step][-1], "o", color=shades[place], markersize=5)
                told = _told(curves[curves["outer_step"] == step], split[step])
                layout.caption(
                    figure, [f"run {place + 1} of {len(steps)}", *told], wide=True
                )
                for _ in range(HOLD if step == steps[-1] else 1):
                    writer.grab_frame()
    return path


def _frame(axes: Axes, split: dict[int, np.ndarray], title: str) -> None:
    """Set what all frames share."""
    lines = list(split.values())
    axes.set_title(title)
    axes.set_xlabel("training steps")
    axes.set_ylabel("validation loss")
    axes.set_xlim(0, max(line[-1, 0] for line in lines))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    layout.scale(axes.yaxis, *y_range(lines))


def _told(rows: pd.DataFrame, line: np.ndarray) -> list[str]:
    """The last loss, and the first hyperparameters that are numbers."""
    names = [name for name in rows if name.startswith(PREFIX)]
    names = [name for name in names if pd.api.types.is_numeric_dtype(rows[name])]
    names = [name for name in names if rows[name].notna().all()][:NAMED]
    values = [
        f"{name.removeprefix(PREFIX)} {_value(rows[name].iloc[0])}" for name in names
    ]
    return [f"final loss {number(line[-1, 1])}", *values]


def _value(value: float) -> str:
    """A width of 64 is not 64.00."""
    return f"{value:g}" if value == round(value) else number(value)
