"""Anytime curves: the best validation loss against what has been spent."""

import numpy as np
import pandas as pd

from raymeta.analysis.tables.frames import seed_quantile, studies

UNITS = {"gradient_evals": "gradient evaluations", "wall_s": "seconds"}
GRID = 2000  # the most points of a task's common grid
COLUMNS = ["task", "method", "family", "x", "median", "q25", "q75"]


def anytime(frame: pd.DataFrame, x: str = "gradient_evals") -> pd.DataFrame:
    """Follow each method's best validation loss over what it has spent.

    Every study is a right-continuous staircase; a finished one keeps its last value.
    A method's line runs where at least half of its seeds have a value, and where at
    least half are finished or still reporting. A seed without a value ranks behind all
    others, so that its first value does not make the median jump.

    Args:
        frame: one row per report.
        x: `gradient_evals` (forward+backward passes) or `wall_s` (compute seconds).

    Returns:
        Columns `task`, `method`, `family`, `x`, `median`, `q25`, `q75` (NaN: that
        quartile of the seeds has no value yet), on one grid of x per task.

    Raises:
        ValueError: `x` is another column, or a required column is missing.
    """
    if x not in UNITS:
        raise ValueError(
            f"x must be a column that accumulates, but got {x!r}: "
            f"pass one of {', '.join(UNITS)}"
        )
    return anytime_of(studies(frame, x))


def anytime_of(studies: pd.DataFrame) -> pd.DataFrame:
    """Return `anytime` from the summary that `frames.studies` made."""
    tables = [_task_curves(of_task) for _, of_task in studies.groupby("task")]
    return pd.concat(tables) if tables else pd.DataFrame(columns=COLUMNS)


def _task_curves(studies: pd.DataFrame) -> pd.DataFrame:
    """Take the quantiles of one task's methods on its grid."""
    stairs = studies["staircase"]
    ends = [steps.end for steps in stairs if not np.isnan(steps.end)]
    grid = np.unique(np.concatenate([*(steps.x for steps in stairs), ends]))
    if len(grid) > GRID:
        grid = grid[np.linspace(0, len(grid) - 1, GRID).astype(int)]
    tables = []
    for (task, method), group in studies.groupby(["task", "method"]):
        values = np.stack([steps.at(grid) for steps in group["staircase"]])
        known = [steps.finished | (grid <= steps.end) for steps in group["staircase"]]
        q25, median, q75 = (seed_quantile(values, q) for q in (0.25, 0.5, 0.75))
        table = pd.DataFrame({"x": grid, "median": median, "q25": q25, "q75": q75})
        table = table.assign(task=task, method=method, family=group["family"].iloc[0])
        shown = ~np.isnan(median) & (np.mean(known, axis=0) >= 0.5)
        tables.append(table.loc[shown, COLUMNS])
    return pd.concat(tables, ignore_index=True)
