"""The frame of a meta-training run: reading it, and what its figures and table show."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from raymeta.analysis.tables.text import align, number
from raymeta.results.integrity import WRITTEN_AGAIN, read_parquet
from raymeta.results.records import read_record
from raymeta.results.schema import TRAINING

BINS = 50  # the most points of a training curve
#: What every frame has; what a figure does not need may be missing.
COLUMNS = tuple(
    name
    for name in TRAINING
    if name not in ("workers", "grad_norm", "step_s", "wall_s")
)


def is_training(folder: str | Path) -> bool:
    """Whether a folder holds a meta-training run, rather than a comparison."""
    return (Path(folder) / "training.json").exists()


def read_training(folder: str | Path) -> pd.DataFrame:
    """Read the frame of a meta-training run.

    Args:
        folder: the run's folder.

    Returns:
        One row per seed, outer step and rank, and per evaluation; see
        `raymeta.train.metrics_log.merged`.

    Raises:
        ValueError: there is none, or it lacks a column.
    """
    file = Path(folder) / "frame.parquet"
    if not file.exists():
        raise ValueError(
            f"a training has a frame.parquet, but {file} does not exist: start it again"
        )
    frame = read_parquet(file, WRITTEN_AGAIN)
    if missing := [name for name in COLUMNS if name not in frame.columns]:
        raise ValueError(
            f"{file} lacks {', '.join(missing)}: it is no training's frame"
        )
    return frame


def metrics(frame: pd.DataFrame) -> list[str]:
    """The columns that are metrics of the tasks."""
    return [
        name
        for name in frame.columns
        if name not in TRAINING and not name.endswith("_ci95")
    ]


def read_published(folder: str | Path) -> list[dict[str, Any]]:
    """Read what papers report of a run.

    Args:
        folder: the run's folder.

    Returns:
        Of each figure `value`, `ci95`, `inner_steps`, `outer_steps` and `source`; see
        `raymeta.train.published`.
    """
    return read_record(Path(folder), "training").get("published", [])


def training_curve(frame: pd.DataFrame, metric: str = "outer_loss") -> pd.DataFrame:
    """Average the training loss over neighbouring outer steps, which differ in tasks.

    Args:
        frame: see `read_training`.
        metric: what to average in place of the loss.

    Returns:
        At most 50 rows: `outer_step` (the middle of the steps that are averaged),
        `mean` (over all tasks of all seeds), `low` and `high` (the least and the
        greatest mean of one rank of one seed), NaN where it is not known of all of
        them. Steps that were skipped are left out.
    """
    rows = frame[(frame["split"] == "train") & ~frame["skipped"]]
    if rows.empty:
        return pd.DataFrame(columns=["outer_step", "mean", "low", "high"])
    width = int(np.ceil((rows["outer_step"].max() + 1) / BINS))
    rows = rows.assign(
        bin=rows["outer_step"] // width, total=rows[metric] * rows["tasks"]
    )
    sums = rows.groupby("bin")[["total", "tasks"]].sum()
    # A sum leaves NaN out, which would count as zero.
    known = rows["total"].notna().groupby(rows["bin"]).all()
    own = rows.groupby(["bin", "seed", "rank"])[["total", "tasks"]].sum()
    each = (own["total"] / own["tasks"]).groupby("bin")
    steps = rows.groupby("bin")["outer_step"].agg(["min", "max"]).mean(axis=1)
    table = pd.DataFrame(
        {
            "mean": sums["total"] / sums["tasks"],
            "low": each.min(),
            "high": each.max(),
        }
    )
    table = table.where(known)
    table.insert(0, "outer_step", steps)
    return table.reset_index(drop=True)


def held_out(
    frame: pd.DataFrame, split: str, metric: str = "outer_loss"
) -> pd.DataFrame:
    """Average held-out losses over seeds.

    Args:
        frame: see `read_training`.
        split: "val" or "test".
        metric: what to average in place of the loss.

    Returns:
        Per `outer_step` ("val") or `inner_steps` ("test"): `mean` over seeds, `ci95`
        (half the width of the 95 % interval over tasks; of several seeds, that of
        their mean), `median` (of the tasks' losses, the mean over seeds), `seeds`,
        `tasks` of one seed.
    """
    rows = frame[frame["split"] == split]
    over = rows.groupby("outer_step" if split == "val" else "inner_steps")
    width = "ci95" if metric == "outer_loss" else f"{metric}_ci95"
    table = pd.DataFrame(
        {
            # A seed without a value is not left out: the mean is not known then.
            "mean": over[metric].agg(lambda x: x.mean(skipna=False)),
            "ci95": over[width].agg(lambda x: np.sqrt((x**2).sum()) / len(x)),
            "median": over["median"].mean(),
            "seeds": over["seed"].nunique(),
            "tasks": over["tasks"].first(),
        }
    )
    return table.reset_index()


def format_evaluation(
    frame: pd.DataFrame, published: Iterable[Mapping[str, Any]] = ()
) -> str:
    """The final evaluation as a table, and how many updates were skipped.

    Args:
        frame: see `read_training`.
        published: see `read_published`.
    """
    table = held_out(frame, "test")
    if table.empty:
        return "no evaluation on test tasks yet"
    first = table.iloc[0]
    seeds = "1 seed" if first["seeds"] == 1 else f"{first['seeds']:.0f} seeds"
    names = f"{frame['algorithm'].iloc[0]} on {frame['family'].iloc[0]}"
    columns = evaluation_columns(frame, "±")
    lines = align({name: [name, *cells] for name, cells in columns.items()})
    notes = [describe(figure) for figure in published]
    if skipped := skipped_updates(frame):
        notes.append(f"{skipped} outer updates were skipped: not finite")
    title = (
        f"{names}: {first['tasks']:,.0f} test tasks, {seeds}; mean and 95 % interval"
    )
    return "\n".join([title, *(f"  {line}" for line in lines), *notes])


def evaluation_columns(frame: pd.DataFrame, interval: str) -> dict[str, list[str]]:
    """The final evaluation as text, a row per number of inner steps.

    Args:
        frame: see `read_training`.
        interval: header of the intervals.

    Returns:
        Header -> cells; empty before an evaluation.
    """
    test = held_out(frame, "test")
    if test.empty:
        return {}
    columns = {
        "inner steps": [f"{n:.0f}" for n in test["inner_steps"]],
        "loss": [number(x) for x in test["mean"]],
        interval: [number(x) for x in test["ci95"]],
        "median": [number(x) for x in test["median"]],
    }
    for name in metrics(frame):
        its = held_out(frame, "test", name)
        columns[name] = [number(x) for x in its["mean"]]
        columns[f"± of {name}"] = [number(x) for x in its["ci95"]]
    return columns


def skipped_updates(frame: pd.DataFrame) -> int:
    """How many outer updates were skipped: their gradient was not finite."""
    return frame[frame["skipped"]].groupby(["seed", "outer_step"]).ngroups


def describe(figure: Mapping[str, Any]) -> str:
    """A published figure in a line."""
    steps = "1 step" if figure["inner_steps"] == 1 else f"{figure['inner_steps']} steps"
    return (
        f"published: {figure['value']:g} ± {figure['ci95']:g} after {steps} "
        f"({figure['source']}; {figure['outer_steps']:,} outer steps)"
    )
