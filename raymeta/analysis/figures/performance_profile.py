"""Performance profiles, a staircase for each method."""

import pandas as pd
from matplotlib.figure import Figure

from raymeta.analysis.figures import layout, style
from raymeta.analysis.tables.profiles import performance_profile
from raymeta.analysis.tables.text import shorten


def draw_performance_profile(
    frame: pd.DataFrame, x: str = "gradient_evals", *, most: int = 10
) -> Figure:
    """Draw `performance_profile`: the share of problems solved against τ.

    Args:
        frame: one row per report.
        x: `gradient_evals` or `wall_s`.
        most: how many methods are named, those of the largest areas; the others are
            thin grey lines.

    Returns:
        A figure; `style.save` writes it.

    Raises:
        ValueError: A required column is missing.
    """
    profile = performance_profile(frame, x=x)
    with style.context():
        figure, (axes,) = layout.panels(1, across=1, width=6.4, height=3.4)
        if profile.empty or not profile["share"].any():
            layout.blank(axes, "no method reached a target: a black-box one sets it")
            return figure
        end = 1.1 * max(2.0, float(profile["ratio"].max()))
        for k, (method, steps) in enumerate(profile.groupby("method", sort=False)):
            named = k < most
            axes.step(
                [*steps["ratio"], end],
                [*steps["share"], steps["share"].iloc[-1]],
                where="post",
                color=style.colour(str(method)) if named else style.OTHERS,
                linestyle=style.dashes(steps["family"].iloc[0]),
                linewidth=1.6 if named else 0.7,
                zorder=2 if named else 1,
                label=shorten(str(method), 24) if named else None,
                gid=f"profile {method}",
            )
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlim(1, end)
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("τ: times what the fastest method needs, to the target")
        axes.set_ylabel("share of tasks × seeds")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        layout.alarm(figure, frame)
    return figure
