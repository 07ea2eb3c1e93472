"""Every figure of a comparison, written into one folder."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from raymeta.analysis.figures import style
from raymeta.analysis.figures.anytime import draw_anytime
from raymeta.analysis.figures.critical_difference import draw_ranks
from raymeta.analysis.figures.loss_animation import write_loss_animation
from raymeta.analysis.figures.loss_curves import draw_loss_curves
from raymeta.analysis.figures.loss_rows_3d import draw_curve_row
from raymeta.analysis.figures.performance_profile import draw_performance_profile
from raymeta.analysis.figures.surfaces import draw_surface
from raymeta.analysis.figures.trajectories import draw_trajectories
from raymeta.analysis.tables.anytime import UNITS
from raymeta.analysis.tables.frames import check
from raymeta.results.integrity import read_parquet
from raymeta.results.validity import reasons_of

#: Files of a folder, and names of figures.
SURFACE, CURVES = "surface.parquet", "curves.parquet"
FLAT, DEEP, ANIMATION = "surface", "curve_row", "learning"


def write_figures(
    frame: pd.DataFrame,
    folder: str | Path,
    domains: Mapping[str, Mapping[str, str]] | None = None,
) -> list[Path]:
    """Draw all figures of a comparison.

    Args:
        frame: one row per report.
        folder: where to write; made when missing.
        domains: by task, see `draw_trajectories`.

    Returns:
        The files, PNG and SVG each: `anytime_gradient_evals`, `anytime_wall_s`, and
        `trajectories_<task>` per task (see `stems`), `profile` and `ranks`.

    Raises:
        ValueError: A required column is missing.
    """
    check(frame)
    folder, files = Path(folder), []
    for x in UNITS:
        files += style.save(draw_anytime(frame, x), folder / f"anytime_{x}")
    for task, stem in stems("trajectories", frame["task"].unique()).items():
        figure = draw_trajectories(frame, task, (domains or {}).get(task))
        files += style.save(figure, folder / stem)
    files += style.save(draw_performance_profile(frame), folder / "profile")
    return [*files, *style.save(draw_ranks(frame), folder / "ranks")]


def write_surface_figures(frame: pd.DataFrame, folder: str | Path) -> list[Path]:
    """Draw the surfaces and curves that were computed after a comparison.

    Args:
        frame: one row per report.
        folder: the comparison's, perhaps with `surface.parquet` and `curves.parquet`
            (see `raymeta.outer.landscape`).

    Returns:
        The files: for every task with a surface `surface_<task>` and
        `curve_row_<task>`, PNG and SVG each; for every task with curves
        `learning_<task>`, GIF, PNG and SVG.
    """
    folder, tasks, files = Path(folder), frame["task"].unique(), []
    flat, deep, moving = (stems(n, tasks) for n in (FLAT, DEEP, ANIMATION))
    for task, rows in _by_task(folder / SURFACE, tasks):
        files += style.save(draw_surface(rows, frame), folder / flat[task])
        files += style.save(draw_curve_row(rows, frame), folder / deep[task])
    for task, rows in _by_task(folder / CURVES, tasks):
        title = f"{task}: training while {rows['method'].iloc[0]} learns"
        if task in reasons_of(frame):
            title = f"INVALID comparison: {title}"
        stem = moving[task]
        files.append(write_loss_animation(rows, folder / f"{stem}.gif", title=title))
        files += style.save(draw_loss_curves(rows, title=title), folder / stem)
    return files


def _by_task(file: Path, tasks: Iterable[str]) -> list[tuple[str, pd.DataFrame]]:
    """The rows of each task of the comparison; none without the file."""
    if not file.exists():
        return []
    known = set(tasks)
    groups = read_parquet(file, "delete it").groupby("task")
    return [
        (str(task), rows.dropna(axis="columns", how="all"))
        for task, rows in groups
        if task in known
    ]


def stems(what: str, tasks: Iterable[str]) -> dict[str, str]:
    """Give each task a file name, `<what>_<task>`.

    Other signs than letters, digits, `.`, `_` and `-` become `-`; names that would
    coincide get a number.
    """
    names: dict[str, str] = {}
    for task in sorted(tasks):
        stem = base = f"{what}_" + re.sub(r"[^\w.-]+", "-", task)
        number = 1
        while stem in names.values():
            number += 1
            stem = f"{base}_{number}"
        names[task] = stem
    return names
