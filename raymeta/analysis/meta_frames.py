"""The frame of a meta-training run: reading it, and what its figures and table show."""

from pathlib import Path

import numpy as np
import pandas as pd

from raymeta.analysis.text import align, number

BINS = 50  # the most points of a training curve
COLUMNS = (
    *("algorithm", "family", "seed", "split", "outer_step", "rank", "attempt"),
    *("tasks", "inner_steps", "outer_loss", "ci95", "skipped"),
)
#: What else is in a frame; every other column is a metric.
OTHERS = (*COLUMNS, "workers", "grad_norm", "step_s", "wall_s")


def is_training(folder: str | Path) -> bool:
    """Whether a folder holds a meta-training run, rather than a comparison."""
    return (Path(folder) / "training.json").is_file()


def read_training(folder: str | Path) -> pd.DataFrame:
    """Read the frame of a meta-training run.

    Args:
        folder: Of the run.

    Returns:
        One row per seed, outer step and rank, and per evaluation; see
        `raymeta.train.rows.merged`.

    Raises:
        ValueError: There is none, or it lacks a column.
    """
    file = Path(folder) / "frame.parquet"
    if not file.is_file():
        raise ValueError(
            f"a training has a frame.parquet, but {file} does not exist: start it again"
        )
    frame = pd.read_parquet(file)
    if missing := [name for name in COLUMNS if name not in frame.columns]:
        raise ValueError(
            f"{file} lacks {', '.join(missing)}: it is no training's frame"
        )
    return frame


def metrics(frame: pd.DataFrame) -> list[str]:
    """The columns that are metrics of the tasks."""
    return [name for name in frame.columns if name not in OTHERS]


def training_curve(frame: pd.DataFrame) -> pd.DataFrame:
    """Average the training loss over neighbouring outer steps, which differ in tasks.

    Args:
        frame: Of `read_training`.

    Returns:
        At most 50 rows: `outer_step` (the middle of the steps that are averaged),
        `mean` (over all tasks of all seeds), `low` and `high` (the least and the
        greatest mean of one rank of one seed). Steps that were skipped are left out.
    """
    rows = frame[(frame["split"] == "train") & ~frame["skipped"]]
    if rows.empty:
        return pd.DataFrame(columns=["outer_step", "mean", "low", "high"])
    width = int(np.ceil((rows["outer_step"].max() + 1) / BINS))
    rows = rows.assign(
        bin=rows["outer_step"] // width, total=rows["outer_loss"] * rows["tasks"]
    )
    sums = rows.groupby("bin")[["total", "tasks"]].sum()
    own = rows.groupby(["bin", "seed", "rank"])[["total", "tasks"]].sum()
    each = (own["total"] / own["tasks"]).groupby("bin")
    steps = rows.groupby("bin")["outer_step"].agg(["min", "max"]).mean(axis=1)
    table = {
        "outer_step": steps,
        "mean": sums["total"] / sums["tasks"],
        "low": each.min(),
        "high": each.max(),
    }
    return pd.DataFrame(table).reset_index(drop=True)


def held_out(frame: pd.DataFrame, split: str) -> pd.DataFrame:
    """Average held-out losses over seeds.

    Args:
        frame: Of `read_training`.
        split: "val" or "test".

    Returns:
        Per `outer_step` ("val") or `inner_steps` ("test"): `mean` over seeds, `ci95`
        (half the width of the 95 % interval over tasks; of several seeds, that of
        their mean), `seeds`, `tasks` of one seed, and the means of metrics.
    """
    rows = frame[frame["split"] == split]
    over = rows.groupby("outer_step" if split == "val" else "inner_steps")
    table = pd.DataFrame(
        {
            "mean": over["outer_loss"].mean(),
            "ci95": over["ci95"].agg(lambda x: np.sqrt((x**2).sum()) / len(x)),
            "seeds": over["seed"].nunique(),
            "tasks": over["tasks"].first(),
            **{name: over[name].mean() for name in metrics(frame)},
        }
    )
    return table.reset_index()


def format_evaluation(frame: pd.DataFrame) -> str:
    """The final evaluation as a table, and how many updates were skipped.

    Args:
        frame: Of `read_training`.
    """
    table = held_out(frame, "test")
    if table.empty:
        return "no evaluation on test tasks yet"
    first = table.iloc[0]
    seeds = "1 seed" if first["seeds"] == 1 else f"{first['seeds']:.0f} seeds"
    names = f"{frame['algorithm'].iloc[0]} on {frame['family'].iloc[0]}"
    columns = {
        "inner steps": [f"{n:.0f}" for n in table["inner_steps"]],
        "loss": [number(x) for x in table["mean"]],
        "±": [number(x) for x in table["ci95"]],
        **{name: [number(x) for x in table[name]] for name in metrics(frame)},
    }
    lines = align({name: [name, *cells] for name, cells in columns.items()})
    skipped = frame[frame["skipped"]].groupby(["seed", "outer_step"]).ngroups
    notes = [f"{skipped} outer updates were skipped: not finite"] if skipped else []
    title = (
        f"{names}: {first['tasks']:,.0f} test tasks, {seeds}; mean and 95 % interval"
    )
    return "\n".join([title, *(f"  {line}" for line in lines), *notes])
