"""The figure of where the hyperparameters of one task went."""

from collections import Counter
from collections.abc import Mapping
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from pandas.api.typing import DataFrameGroupBy

from raymeta.analysis.figures import layout, style
from raymeta.analysis.figures.legend import methods_to_label
from raymeta.analysis.tables.frames import studies
from raymeta.analysis.tables.hparams import hparam_bands, hparam_paths
from raymeta.analysis.tables.text import shorten, visible
from raymeta.results.schema import BLACK_BOX, HYBRID, HYPERGRADIENT

NOTES = {
    HYPERGRADIENT: "solid: hypergradient descent (bold: the seed of median final loss, "
    "thin: the others)",
    HYBRID: "dash-dotted: best trial so far of hybrids, where it ended",
    BLACK_BOX: "dashed: best trial so far of black-box search, in such a seed",
}


def draw_trajectories(
    frame: pd.DataFrame, task: str, domains: Mapping[str, str] | None = None
) -> Figure:
    """Draw the hyperparameters of one task against the evaluations, a panel each.

    Solid lines are the walks of hypergradient methods: thin per seed, bold for the one
    with the median final loss. Steps are the incumbents of black-box methods (dashed)
    and of hybrids (dash-dotted) in such a seed. Of more than ten methods those of
    `methods_to_label` are drawn. More than 12 entries of one base name share a panel:
    their median and their band from 10 % to 90 %.

    Args:
        frame: one row per report.
        task: which task.
        domains: kind of domain by base name (`lr` for `lr[0]`): a `Unit` gets a logit
            axis, a `Real` a linear one, a `Choice` one of options; others, and all by
            default, a logarithmic one where values span more than a decade.

    Returns:
        A figure; `style.save` writes it.

    Raises:
        ValueError: the frame has no such task, a required column is missing, or a
            hyperparameter with many entries is not a number.
    """
    kinds = domains or {}
    choices = [name for name, kind in kinds.items() if kind == "Choice"]
    paths, bands = hparam_paths(frame, task, choices), hparam_bands(frame, task)
    rows = frame[frame["task"] == task]
    named = methods_to_label(studies(rows))
    # Tuning-free runs have no λ of their own.
    paths, bands = (
        t[t["method"].isin(named) & t["family"].isin(NOTES)] for t in (paths, bands)
    )
    single = list(dict.fromkeys(paths["hyperparameter"]))
    many = list(dict.fromkeys(bands["hyperparameter"]))
    end = rows["gradient_evals"].max()
    with style.context():
        count = max(1, len(single) + len(many))
        across = min(_across(single + many), count)
        width = {1: 5.4, 2: 4.0}.get(across, 3.3)
        size = {"width": width, "height": 2.2, "below": 0.7 + 0.6 * (across < 3)}
        figure, axes = layout.panels(count, across=across, **size)
        for name, panel in zip(single + many, axes, strict=False):
            table = bands if name in many else paths
            draw = _draw_bands if name in many else _draw_paths
            kind = kinds.get(name.split("[")[0], "")
            draw(panel, table[table["hyperparameter"] == name], end, kind)
        for place, panel in enumerate(axes):
            below = place + across >= count
            layout.spend_axis(panel, end, "gradient evaluations" if below else "")
        figure.suptitle(task, x=0.01, ha="left", fontsize=11, fontweight="bold")
        if single or many:
            _legend(figure, pd.concat([paths, bands]), rows["method"].nunique())
        else:
            layout.blank(axes[0], "no hyperparameter was reported")
        layout.alarm(figure, rows)
    return figure


def _across(names: list[str]) -> int:
    """Return how many panels stand in a row: `lr[0]`, `lr[1]`, … side by side."""
    sizes = set(Counter(name.split("[")[0] for name in names).values()) - {1}
    if len(sizes) == 1 and (size := sizes.pop()) in (3, 4):
        return size
    return min((4, 3), key=lambda width: -len(names) % width) if len(names) > 4 else 4


def _draw_paths(axes: Axes, table: pd.DataFrame, end: float, kind: str) -> None:
    """Draw one hyperparameter: all walks, and each representative incumbent."""
    axes.set_title(shorten(table["hyperparameter"].iloc[0], 36))
    shown = table[(table["family"] == HYPERGRADIENT) | table["representative"]]
    named = shown.loc[shown["choice"] != "", ["value", "choice"]].drop_duplicates()
    if len(named):
        axes.set_ylim(named["value"].min() - 0.5, named["value"].max() + 0.5)
        axes.set_yticks(named["value"], list(map(visible, named["choice"])))
        shown = shown.assign(value=shown["value"] + _aside(shown["method"]))
    else:
        layout.domain_scale(axes.yaxis, *y_range(shown, end), kind)
    for (family, method, seed, trial), line in _lines(shown):
        bold = line["representative"].iloc[0]
        walk = family == HYPERGRADIENT
        axes.plot(
            *(line["gradient_evals"], line["value"]),
            color=style.colour(method),
            alpha=1 if bold else 0.4,
            linewidth=(1.8 if bold else 0.7) if walk else 1.2,
            linestyle=style.dashes(family),
            drawstyle="default" if walk else "steps-post",
            marker="." if len(line) == 1 else "",
            zorder=3 if bold else 2,
            gid=f"{method} seed {seed} trial {trial}",
        )


def _draw_bands(axes: Axes, table: pd.DataFrame, end: float, kind: str) -> None:
    """Draw the entries of one base name: a median line and a band per method."""
    name, entries = table["hyperparameter"].iloc[0], table["entries"].iloc[0]
    axes.set_title(f"{name}: median, 10–90 % of {entries}")
    table = table.assign(representative=True)
    low, _ = y_range(table.assign(value=table["q10"]), end)
    _, high = y_range(table.assign(value=table["q90"]), end)
    layout.domain_scale(axes.yaxis, low, high, kind)
    for (family, method), line in table.groupby(["family", "method"]):
        stepped = family != HYPERGRADIENT
        x, shade = line["gradient_evals"], style.colour(method)
        axes.plot(
            *(x, line["median"]),
            color=shade,
            linewidth=1.2 if stepped else 1.8,
            linestyle=style.dashes(family),
            drawstyle="steps-post" if stepped else "default",
            gid=f"{method} median",
        )
        axes.fill_between(
            *(x, line["q10"], line["q90"]),
            step="post" if stepped else None,
            color=shade,
            alpha=0.08 if stepped else 0.2,
            linewidth=0,
        )


def _lines(table: pd.DataFrame) -> DataFrameGroupBy:
    """Group a table into lines; an incumbent goes on from trial to trial."""
    trial = table["trial"].where(table["family"] == HYPERGRADIENT, -1)
    return table.assign(trial=trial).groupby(["family", "method", "seed", "trial"])


def y_range(table: pd.DataFrame, end: float) -> tuple[float, float]:
    """Choose what values to show, so that the first random trials do not decide.

    Args:
        table: columns `family`, `method`, `seed`, `gradient_evals`, `value`,
            `representative`.
        end: where the x-axis ends.

    Returns:
        The lowest and the highest value: of bold walks all, of thin ones all but one in
        a hundred at either side, of incumbents what stood after 15 % of the axis (or
        all when none did).
    """
    walk = table["family"] == HYPERGRADIENT
    thin = table.loc[walk, "value"].quantile([0.01, 0.99])
    until = table.groupby(["method", "seed"])["gradient_evals"].shift(-1)
    stood = until.fillna(table["gradient_evals"]) >= 0.15 * end
    chosen = table["representative"] & (walk | stood)
    kept = [*table.loc[chosen, "value"], *thin.dropna()]
    kept = kept or table["value"].tolist()
    return float(min(kept)), float(max(kept))


def _aside(methods: pd.Series) -> np.ndarray:
    """Return an offset per method, so that equal choices do not hide one another."""
    codes, names = pd.factorize(methods, sort=True)
    return 0.3 * ((codes + 0.5) / len(names) - 0.5)


def _legend(figure: Figure, table: pd.DataFrame, methods: int) -> None:
    """Name the drawn methods once below the panels, family by family."""
    drawn = table[["family", "method"]].drop_duplicates()
    place = drawn["family"].map(list(NOTES).index)
    drawn = drawn.assign(place=place).sort_values(["place", "method"])
    handles = [
        Line2D(
            *([], []),
            color=style.colour(row.method),
            linestyle=style.dashes(row.family),
            linewidth=1.8,
            label=shorten(row.method),
        )
        for row in drawn.itertuples()
    ]
    width = figure.get_figwidth()
    notes = [note for family, note in NOTES.items() if family in set(drawn["family"])]
    if len(drawn) < methods:
        notes.append(f"{len(drawn)} of {methods} methods, the best of each family")
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=min(len(handles), int(width / 1.3)),
        title=fill("; ".join(notes), int(17 * width)),
        title_fontproperties={"size": 7.5},
        handlelength=3.2,
    )
