"""Loss curves of training, one for each outer step of a run."""

import numpy as np
import pandas as pd

COLUMNS = ("outer_step", "inner_steps", "outer_loss")


def loss_curves(curves: pd.DataFrame) -> dict[int, np.ndarray]:
    """Split the reports of one hypergradient run into a training curve per hyper-step.

    Args:
        curves: columns `outer_step` (the hyper-step), `inner_steps` (training steps
            done), `outer_loss` (validation loss then; not finite where it diverged).

    Returns:
        For each hyper-step, in order, [n, 2] float64: training steps and loss; n may be
        0. Steps increase; a loss that is not finite is left out.

    Raises:
        ValueError: A column is missing.
    """
    missing = [name for name in COLUMNS if name not in curves.columns]
    if missing:
        raise ValueError(
            f"training curves must have the columns {', '.join(COLUMNS)}, but got "
            f"{', '.join(map(str, curves.columns)) or 'none'}: "
            f"add {', '.join(missing)}"
        )
    split = {}
    for step, rows in curves.sort_values(list(COLUMNS[:2])).groupby("outer_step"):
        points = rows[["inner_steps", "outer_loss"]].to_numpy(float)
        split[int(step)] = points[np.isfinite(points).all(axis=1)]
    return split
