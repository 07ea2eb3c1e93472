"""Evaluations to reach a target, with the seeds that never do counted."""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from raymeta.analysis.tables.frames import studies, target_of

COLUMNS = [
    *("task", "method", "family", "seed", "target", "reached", "needed", "spent")
]


def to_target(
    frame: pd.DataFrame,
    target: float | Mapping[str, float] | None = None,
    x: str = "gradient_evals",
) -> pd.DataFrame:
    """Find, for every task, method and seed, what was spent until the target.

    Args:
        frame: one row per report.
        target: A loss, or one per task; by default, in each seed, the loss that the
            best black-box method ended at (`blackbox_target`).
        x: `gradient_evals` (forward+backward passes) or `wall_s` (compute seconds).

    Returns:
        One row per study that has a target: `task`, `method`, `family`, `seed`,
        `target`, `reached`, `needed` (x at the first loss at or below the target; inf
        when never), `spent` (x at the end, where a seed that never arrives is
        censored).

    Raises:
        ValueError: A required column is missing.
    """
    table = studies(frame, x)
    if target is None:
        known = target_of(table)[["task", "seed", "target"]]
        table = table.merge(known, on=["task", "seed"])
    else:
        each = target if isinstance(target, Mapping) else {}
        table["target"] = table["task"].map(each) if each else target
        table = table.dropna(subset=["target"])
    pairs = zip(table["staircase"], table["target"], strict=True)
    table["needed"] = [steps.reaches(goal) for steps, goal in pairs]
    table["reached"] = np.isfinite(table["needed"])
    table["spent"] = [steps.end for steps in table["staircase"]]
    return table[COLUMNS].reset_index(drop=True)


def target_summary(reached: pd.DataFrame) -> pd.DataFrame:
    r"""Summarise `to_target` over seeds, without dropping those that never arrive.

    The median takes a seed that never arrives as infinitely late. The expected running
    time of a method that is started again, with another seed, until it arrives is
    (Hansen et al. 2009, "Real-parameter black-box optimization benchmarking")

    $$ \mathrm{ERT} = \frac{\sum_{\text{seeds}} \min(\text{needed}, \text{spent})}
       {\#\,\text{seeds that arrive}} $$

    Args:
        reached: the table of `to_target`.

    Returns:
        One row per (task, method): `family`, `target` (median over seeds), `reached`,
        `censored` (numbers of seeds), `median`, `expected` (inf when no seed arrives).
    """
    rows = []
    for (task, method), group in reached.groupby(["task", "method"]):
        arrived = int(group["reached"].sum())
        total = float(np.minimum(group["needed"], group["spent"]).sum())
        rows.append(
            {
                "task": task,
                "method": method,
                "family": group["family"].iloc[0],
                "target": group["target"].median(),
                "reached": arrived,
                "censored": len(group) - arrived,
                "median": float(group["needed"].median()),
                "expected": total / arrived if arrived else math.inf,
            }
        )
    names = ["task", "method", "family", "target", "reached", "censored"]
    return pd.DataFrame(rows, columns=[*names, "median", "expected"])
