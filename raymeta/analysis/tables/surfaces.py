"""The outer loss over a grid of two hyperparameters."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from raymeta.results.schema import PREFIX


class Surface(NamedTuple):
    """The outer loss of full runs over a grid of two hyperparameters.

    Attributes:
        names: the hyperparameters along x and y.
        x: [n] float, increasing.
        y: [m] float, increasing.
        loss: [m, n] float; NaN where training diverged.
        task: the task's name.
        seed: the seed that sampled the task's problem.
    """

    names: tuple[str, str]
    x: np.ndarray
    y: np.ndarray
    loss: np.ndarray
    task: str
    seed: int


def surface_of(rows: pd.DataFrame) -> Surface:
    """Arrange the last losses of `raymeta.outer.landscape.loss_surface` as a grid.

    Args:
        rows: the rows of one task.

    Raises:
        ValueError: other than two hyperparameters vary.
    """
    varied = [
        name
        for name in rows
        if name.startswith(PREFIX) and rows[name].nunique(dropna=True) > 1
    ]
    if len(varied) != 2:
        names = ", ".join(n.removeprefix(PREFIX) for n in varied) or "none"
        raise ValueError(
            f"a surface has two hyperparameters that vary, but this one has {names}: "
            "compute it again"
        )
    if "x" in rows and f"{PREFIX}{rows['x'].iloc[0]}" == varied[1]:
        varied.reverse()  # as it was asked for
    first, second = varied
    last = rows[rows["inner_steps"] == rows["inner_steps"].max()]
    grid = last.pivot(index=second, columns=first, values="outer_loss")
    loss = grid.to_numpy(float)
    return Surface(
        names=(first.removeprefix(PREFIX), second.removeprefix(PREFIX)),
        x=grid.columns.to_numpy(float),
        y=grid.index.to_numpy(float),
        loss=np.where(np.isfinite(loss), loss, np.nan),
        task=str(rows["task"].iloc[0]),
        seed=int(rows["seed"].iloc[0]),
    )


def is_logarithmic(grid: np.ndarray) -> bool:
    """Whether a grid is evenly spaced in the logarithm."""
    return bool(grid[0] > 0 and np.allclose(np.diff(np.log(grid), 2), 0, atol=1e-6))
