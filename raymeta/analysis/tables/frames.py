"""The tidy frame of a comparison: reading it, and the views every table needs.

One row per report. A *study* is one (task, method, seed); rows of different studies may
be interleaved, and an interrupted run leaves studies without a value or a final row.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from raymeta.results.integrity import WRITTEN_AGAIN, read_parquet
from raymeta.results.schema import BLACK_BOX, REQUIRED_COLUMNS, current_frame
from raymeta.results.validity import marked

STUDY = ["task", "method", "seed"]


def read(path: str | Path) -> pd.DataFrame:
    """Read the frame of a run.

    Args:
        path: A parquet file, or a run folder that contains `frame.parquet`.

    Returns:
        One row per report, with at least `REQUIRED_COLUMNS`; and `invalid` where the
        comparison was not (see `raymeta.results.validity`).

    Raises:
        ValueError: the file is missing or unreadable, or it lacks a required column.
    """
    path = Path(path)
    file = path / "frame.parquet" if path.is_dir() else path
    if not file.exists():
        raise ValueError(
            f"a frame must be a parquet file or a run folder with a frame.parquet, but "
            f"{file} does not exist: pass the folder that the comparison wrote"
        )
    frame = current_frame(read_parquet(file, WRITTEN_AGAIN))
    if {"algorithm", "split"} <= set(frame.columns):
        raise ValueError(
            f"{file} is the frame of a training, but {file.parent / 'training.json'} "
            "does not exist: restore it from a copy"
        )
    check(frame, source=str(file))
    return marked(frame, file.parent)


def check(frame: pd.DataFrame, source: str = "the frame") -> None:
    """Refuse a frame that lacks a required column.

    Args:
        frame: the candidate.
        source: how the message names it.

    Raises:
        ValueError: A column of `REQUIRED_COLUMNS` is missing.
    """
    missing = [name for name in REQUIRED_COLUMNS if name not in frame.columns]
    if missing:
        raise ValueError(
            f"a frame must hold the columns of a comparison, but {source} misses "
            f"{', '.join(missing)}: pass what the comparison returned or wrote"
        )


class Staircase(NamedTuple):
    """The best outer loss of one study, right-continuous in what it has spent."""

    x: np.ndarray  # [n] float64, increasing: where the best loss improved
    value: np.ndarray  # [n] float64, decreasing: the best loss from x[i] on
    end: float  # x of the study's last report
    finished: bool  # the study wrote its final row

    def at(self, grid: np.ndarray) -> np.ndarray:
        """Return the value at each point of `grid`; NaN before the first."""
        index = np.searchsorted(self.x, grid, side="right")
        return np.concatenate([[np.nan], self.value])[index]

    def reaches(self, target: float) -> float:
        """Return the first x at which the value is at most `target`; inf if never."""
        reached = np.flatnonzero(self.value <= target)
        return float(self.x[reached[0]]) if len(reached) else np.inf

    @property
    def final(self) -> float:
        """The study's last value; NaN when it has none."""
        return float(self.value[-1]) if len(self.value) else np.nan


def staircase(rows: pd.DataFrame, x: str = "gradient_evals") -> Staircase:
    """Reduce one study's reports, in any order, to its staircase over column `x`."""
    rows = rows.sort_values(x, kind="stable")
    valued = rows.dropna(subset=[x, "best_outer_loss"])
    best = valued["best_outer_loss"].cummin()
    best = best[best < best.shift(fill_value=np.inf)]
    where = valued.loc[best.index, x]
    last = ~where.duplicated(keep="last")
    return Staircase(
        x=where[last].to_numpy(float),
        value=best[last].to_numpy(float),
        end=float(rows[x].max()),
        finished=bool((rows["status"] == "final").any()),
    )


def studies(frame: pd.DataFrame, x: str = "gradient_evals") -> pd.DataFrame:
    """Summarise every study in one row.

    Args:
        frame: one row per report.
        x: the column that the staircases run over.

    Returns:
        Columns `task`, `method`, `family`, `seed`, `staircase` (a `Staircase` over
        `x`), `best_outer_loss` (its last value; NaN when there is none).

    Raises:
        ValueError: A required column is missing.
    """
    check(frame)
    rows = []
    for (task, method, seed), study in frame.reset_index(drop=True).groupby(STUDY):
        steps = staircase(study, x)
        family = study["family"].iloc[0]
        rows.append((task, method, family, seed, steps, steps.final))
    columns = ["task", "method", "family", "seed", "staircase", "best_outer_loss"]
    return pd.DataFrame(rows, columns=columns)


def seed_quantile(values: np.ndarray, q: float) -> np.ndarray:
    """Take a quantile over seeds in which a missing value ranks behind all others.

    A quantile between a value and a missing one is the value, so the median exists as
    soon as half of the seeds have a value, and no seed is ever dropped in silence.

    Args:
        values: [seeds, …] float; NaN where a seed has no value.
        q: in [0, 1]; between two values the quantile is interpolated linearly.

    Returns:
        […] float; NaN where too few seeds have a value.
    """
    ordered = np.sort(np.asarray(values, float), axis=0)  # NaN last
    rank = q * (len(ordered) - 1)
    low, high = ordered[int(np.floor(rank))], ordered[int(np.ceil(rank))]
    high = np.where(np.isnan(high), low, high)
    return low + (rank % 1) * (high - low)


def seed_median(values: np.ndarray) -> float:
    """Take the median over seeds, see `seed_quantile`."""
    return float(seed_quantile(values, 0.5))


def blackbox_target(frame: pd.DataFrame) -> pd.DataFrame:
    """Find, per task and seed, the loss that the best black-box method ended at.

    The best black-box method of a task has the lowest median over seeds of the final
    best outer loss; among equals the first by name.

    Args:
        frame: one row per report.

    Returns:
        One row per (task, seed) in which that method has a value; columns `task`,
        `seed`, `method` (the best black-box method), `target` (its loss).

    Raises:
        ValueError: A required column is missing.
    """
    return target_of(studies(frame))


def target_of(studies: pd.DataFrame) -> pd.DataFrame:
    """Return `blackbox_target` from the summary that `studies` made."""
    blackbox = studies[studies["family"] == BLACK_BOX]
    found = []
    for _, group in blackbox.groupby("task"):
        losses = group.groupby("method")["best_outer_loss"]
        medians = losses.agg(seed_median).dropna()
        if len(medians):
            best = group[group["method"] == medians.idxmin()]
            found.append(best.dropna(subset=["best_outer_loss"]))
    table = pd.concat(found) if found else blackbox.iloc[:0]
    table = table.rename(columns={"best_outer_loss": "target"})
    return table[["task", "seed", "method", "target"]].reset_index(drop=True)
