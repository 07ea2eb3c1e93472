"""The critical-difference diagram: mean ranks, and what is not told apart."""

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from raymeta.analysis.figures import layout, style
from raymeta.analysis.figures.anytime import KEYS
from raymeta.analysis.tables.ranks import Ranks, mean_ranks, task_scores
from raymeta.analysis.tables.text import number, shorten

ROW = 0.24  # inches between two names
FOOT = 0.57  # inches for the verdict


def draw_ranks(frame: pd.DataFrame, *, level: float = 0.05) -> Figure:
    """Draw the critical-difference diagram of a comparison (Demšar 2006, figure 1).

    Args:
        frame: one row per report.
        level: α of the Friedman and the Nemenyi test.

    Returns:
        A figure; `style.save` writes it.

    Raises:
        ValueError: A required column is missing.
    """
    scores = task_scores(frame)
    families = dict(zip(frame["method"], frame["family"], strict=True))
    figure = draw_mean_ranks(mean_ranks(scores, level=level), families, level=level)
    layout.alarm(figure, frame)
    return figure


def draw_mean_ranks(
    ranks: Ranks, families: dict[str, str] | None = None, *, level: float = 0.05
) -> Figure:
    """Draw `mean_ranks`: the best on the left, bars over groups not told apart.

    Args:
        ranks: see `mean_ranks`.
        families: family by method, for the lines' dashes.
        level: the α that the ranks were computed with.
    """
    count = len(ranks.mean)
    bars = 0.16 * len(ranks.cliques)
    names = ROW * math.ceil(count / 2)
    height = 1.65 + bars + names
    with style.context():
        figure = Figure(figsize=(7.2, height))
        axes = figure.add_axes((0.2, FOOT / height, 0.6, 1 - FOOT / height))
        axes.axis("off")
        if count < 2:
            layout.blank(axes, "ranks need two methods that ran on every task")
            return figure
        axes.set_xlim(1, count)
        axes.set_ylim(-(bars + names + 0.25), height - FOOT - bars - names - 0.25)
        _draw_scale(axes, count)
        _draw_difference(axes, ranks.critical_difference, count)
        _draw_methods(axes, ranks, families or {}, bars)
        for place, clique in enumerate(ranks.cliques):
            ends = ranks.mean[clique[0]] - 0.03, ranks.mean[clique[-1]] + 0.03
            depth = -0.12 - 0.16 * place
            axes.plot(
                *(ends, (depth, depth)),
                color=style.INK,
                linewidth=3,
                solid_capstyle="butt",
                clip_on=False,
                gid=f"clique {' '.join(clique)}",
            )
        figure.text(
            *(
                0.5,
                0.1 / height,
                f"{verdict(ranks, level=level)}{_key(families or {})}",
            ),
            ha="center",
            fontsize=8,
            color=style.MUTED,
        )
    return figure


def _key(families: dict[str, str]) -> str:
    """What the lines' dashes mean, on a line of its own; nothing for one family."""
    notes = [note for family, note in KEYS.items() if family in families.values()]
    return f"\n{'; '.join(notes)}" if len(notes) > 1 else ""


def verdict(ranks: Ranks, *, level: float = 0.05) -> str:
    """Say in one sentence what the ranks allow to conclude."""
    over = f"mean ranks over {ranks.tasks} task{'s' * (ranks.tasks != 1)}"
    if ranks.tasks < 2 or len(ranks.mean) < 3:
        return f"{over}: no test below two tasks and three methods"
    if math.isnan(ranks.p_value):
        return f"{over}: all methods are equal"
    test = f"Friedman χ² = {number(ranks.statistic)}, p = {number(ranks.p_value)}"
    if ranks.p_value > level:
        return f"{over}; {test}: the methods do not differ significantly"
    few = "; the test is rough below ten tasks" if ranks.tasks < 10 else ""
    return f"{over}; {test}; bars: not told apart at α = {level:g} (Nemenyi){few}"


def _draw_scale(axes: Axes, count: int) -> None:
    """Draw the axis of ranks, 1 at the left."""
    axes.plot([1, count], [0, 0], color="#888888", linewidth=0.8, clip_on=False)
    for rank in range(1, count + 1):
        axes.plot([rank, rank], [0, 0.07], color="#888888", linewidth=0.8)
        axes.text(rank, 0.12, str(rank), ha="center", fontsize=8, color=style.MUTED)


def _draw_difference(axes: Axes, difference: float, count: int) -> None:
    """Draw the critical difference above the axis, as far as it fits."""
    end, depth = min(1 + difference, count), 0.45
    closed = [0, 1] if 1 + difference <= count else [0]
    axes.plot(
        *([1, end], [depth, depth]),
        color=style.INK,
        linewidth=1,
        marker="|",
        markevery=closed,
        clip_on=False,
        gid="critical difference",
    )
    beyond = " (beyond the axis)" if 1 + difference > count else ""
    axes.text(
        *((1 + end) / 2, depth + 0.09, f"critical difference {difference:.2f}{beyond}"),
        ha="center",
        fontsize=8,
        color=style.INK,
    )


def _draw_methods(
    axes: Axes, ranks: Ranks, families: dict[str, str], bars: float
) -> None:
    """Hang the methods from the axis: the better half left, the others right."""
    count = len(ranks.mean)
    half = math.ceil(count / 2)
    for place, (method, rank) in enumerate(ranks.mean.items()):
        left = place < half
        depth = -(bars + 0.25 + ROW * (place if left else count - 1 - place))
        side = 1 - 0.02 * count if left else count + 0.02 * count
        axes.plot(
            *([rank, rank, side], [0, depth, depth]),
            color=style.colour(method),
            linestyle=style.dashes(families.get(method, "")),
            linewidth=1.3,
            clip_on=False,
            gid=f"rank {method}",
        )
        name, value = shorten(method), f"{rank:.2f}"
        axes.text(
            side + (-0.01 if left else 0.01) * count,
            depth,
            f"{name}  {value}" if left else f"{value}  {name}",
            ha="right" if left else "left",
            va="center",
            fontsize=8.5,
            color=style.text_colour(method),
        )
