"""Every figure of a comparison, written into one folder."""

import re
from pathlib import Path

import pandas as pd

from raymeta.analysis import style
from raymeta.analysis.curves import UNITS, draw_anytime
from raymeta.analysis.frames import check
from raymeta.analysis.trajectories import draw_trajectories


def write_figures(frame: pd.DataFrame, folder: str | Path) -> list[Path]:
    """Draw all figures of a comparison.

    Args:
        frame: One row per report.
        folder: Where to write; made when missing.

    Returns:
        The files, PNG and SVG each: `anytime_gradient_evals`, `anytime_wall_s`, and
        `trajectories_<task>` per task (other signs than letters, digits, `.`, `_` and
        `-` become `-`).

    Raises:
        ValueError: A required column is missing.
    """
    check(frame)
    folder, files = Path(folder), []
    for x in UNITS:
        files += style.save(draw_anytime(frame, x), folder / f"anytime_{x}")
    for task, stem in _stems(sorted(frame["task"].unique())).items():
        files += style.save(draw_trajectories(frame, task), folder / stem)
    return files


def _stems(tasks: list[str]) -> dict[str, str]:
    """Give each task a file name; names that would coincide get a number."""
    stems: dict[str, str] = {}
    for task in tasks:
        stem = base = "trajectories_" + re.sub(r"[^\w.-]+", "-", task)
        number = 1
        while stem in stems.values():
            number += 1
            stem = f"{base}_{number}"
        stems[task] = stem
    return stems
