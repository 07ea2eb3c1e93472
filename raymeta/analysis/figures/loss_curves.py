"""Loss curves: the loss over training, for every hyper-step."""

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from raymeta.analysis.figures import layout, style
from raymeta.analysis.tables.loss_curves import loss_curves
from raymeta.analysis.tables.text import number


def draw_loss_curves(
    curves: pd.DataFrame, *, title: str = "", ylabel: str = "validation loss"
) -> Figure:
    """Draw `loss_curves`, coloured from the first hyper-step to the last.

    Args:
        curves: columns `outer_step`, `inner_steps`, `outer_loss`.
        title: above the panel.
        ylabel: what the loss is.

    Returns:
        A figure; `style.save` writes it.

    Raises:
        ValueError: A column is missing.
    """
    split = {step: line for step, line in loss_curves(curves).items() if len(line)}
    with style.context():
        figure, (axes,) = layout.panels(1, across=1, width=6.4, height=4.0)
        axes.set_title(title)
        axes.set_xlabel("training steps")
        axes.set_ylabel(ylabel)
        if not split:
            layout.blank(axes, "no finite loss was reported")
            return figure
        steps, lines = list(split), list(split.values())
        axes.set_xlim(min(c[0, 0] for c in lines), max(c[-1, 0] for c in lines))
        low, high = y_range(lines)
        layout.scale(axes.yaxis, low, high)
        if max(line[:, 1].max() for line in lines) > high:
            axes.set_ylabel(f"{ylabel}, cut above {number(high)}")
        drawn = LineCollection(
            lines,
            array=np.asarray(steps, float),
            cmap=_colours(),
            norm=Normalize(steps[0], max(steps[-1], steps[0] + 1)),
            linewidths=1.1 if len(steps) <= 60 else 0.7,
            alpha=0.85,
            capstyle="round",
        )
        axes.add_collection(drawn, autolim=False)
        bar = figure.colorbar(drawn, ax=axes, pad=0.02, aspect=30)
        bar.set_label("hyper-step")
        assert bar.solids is not None
        bar.solids.set_alpha(1)
        bar.outline.set_visible(False)
        bar.ax.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    return figure


def y_range(lines: list[np.ndarray]) -> tuple[float, float]:
    """Return the losses to show: a peak far above the usual curve's is cut off."""
    low = min(line[:, 1].min() for line in lines)
    peaks = np.array([line[:, 1].max() for line in lines])
    usual = np.median(peaks)
    return float(low), float(min(peaks.max(), usual + 0.5 * (usual - low)))


def _colours() -> LinearSegmentedColormap:
    """Return viridis from dark to yellow-green: pure yellow is lost on white."""
    samples = colormaps["viridis"](np.linspace(0, 0.88, 256))
    return LinearSegmentedColormap.from_list("hyper-step", samples)
