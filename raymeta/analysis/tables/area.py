"""Area under the anytime curve: one number for how early and how low."""

import numpy as np
import pandas as pd

from raymeta.analysis.tables.frames import Staircase, studies

COLUMNS = ["task", "method", "family", "seed", "area"]


def area_under_curve(
    frame: pd.DataFrame, x: str = "gradient_evals", *, log: bool = False
) -> pd.DataFrame:
    r"""Each study's normalized best loss, averaged over its budget; low is good.

    $$ A = \frac1B \int_0^B \frac{f(x) - f_{\min}}{f_{\max} - f_{\min}}\, dx $$

    with f the best loss after spending x; f_min the lowest final loss and f_max the
    highest first one of any method on the task and seed; B the most that any study of
    the task has spent. A study counts 1 before its first value and keeps its last one.

    Args:
        frame: one row per report.
        x: `gradient_evals` (forward+backward passes) or `wall_s` (compute seconds).
        log: whether f stands for the logarithm of the loss: for losses that fall by
            decades, of which the plain area sees only the first.

    Returns:
        Columns `task`, `method`, `family`, `seed`, `area` (in [0, 1]; 1 without a
        value; NaN where no method on the task and seed has two different values).

    Raises:
        ValueError: A required column is missing, or `log` and a loss is not positive.
    """
    table = studies(frame, x)
    if not len(table):
        return pd.DataFrame(columns=COLUMNS)
    if log:
        table["staircase"] = [_logarithm(steps) for steps in table["staircase"]]
    ends = table.groupby("task")["staircase"].agg(lambda s: max(c.end for c in s))
    table["area"] = np.nan
    for (task, _), group in table.groupby(["task", "seed"]):
        valued = [steps for steps in group["staircase"] if len(steps.value)]
        low = min((steps.final for steps in valued), default=np.nan)
        high = max((steps.value[0] for steps in valued), default=np.nan)
        if high > low:
            table.loc[group.index, "area"] = [
                _area(steps, low, high, ends[task]) for steps in group["staircase"]
            ]
    return table[COLUMNS]


def _area(steps: Staircase, low: float, high: float, end: float) -> float:
    """Integrate one staircase, exactly."""
    widths = np.diff([0.0, *steps.x, end])
    heights = np.array([1.0, *((steps.value - low) / (high - low))])
    return float(widths @ heights / end)


def _logarithm(steps: Staircase) -> Staircase:
    """Take the logarithm of a staircase's values."""
    if not (steps.value > 0).all():
        raise ValueError(
            f"a logarithmic area needs positive losses, but got {steps.value.min():g}: "
            "pass log=False"
        )
    return steps._replace(value=np.log(steps.value))
