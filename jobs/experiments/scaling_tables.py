"""What more workers learn: statistics over the seeds of the scaling job.

They are of its frame: one row per `inner_lr`, `workers`, `seed` and `outer_step`.
"""

import numpy as np
import pandas as pd
from scipy.special import stdtrit

CELL = ["inner_lr", "workers"]
#: What the most workers are to reach: of the mean loss at most, of the ratio at least.
MOST_LOSS, LEAST_RATIO = 0.804, 5


def interval(frame: pd.DataFrame, by: list[str], column: str) -> pd.DataFrame:
    r"""The mean over seeds and its 95 % interval, by Student's t.

    $$ \bar x \pm t_{0.975,\, n - 1}\, s / \sqrt n $$

    Args:
        frame: one row per `by` and seed.
        by: columns.
        column: the values' column.

    Returns:
        Columns `by`, `mean`, `half` (half the interval's width; NaN for one seed).
    """
    values = frame.groupby(by)[column]
    count = values.count()
    half = stdtrit(count - 1, 0.975) * values.std() / np.sqrt(count)
    return pd.DataFrame({"mean": values.mean(), "half": half}).reset_index()


def last(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of what has been learnt in the end."""
    return frame[frame["outer_step"] == frame["outer_step"].max()]


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """What is learnt in the end: means over seeds ± half their 95 % intervals.

    Returns:
        One row per `inner_lr` and `workers`; the measures as text, `separable` as the
        number of seeds in which a line separates the classes.
    """
    ends = last(frame)
    columns = {}
    for name, digits in {
        "meta_loss": 4,
        "expected_loss": 4,
        "accuracy": 3,
        "gap": 2,
        "gap_ratio": 1,
        "best_line": 3,
    }.items():
        found = interval(ends, CELL, name).set_index(CELL)
        columns[name] = [
            f"{mean:.{digits}f} ± {half:.{digits}f}"
            for mean, half in found.itertuples(index=False)
        ]
    cells = ends.groupby(CELL)["separable"]
    columns["separable"] = [
        f"{yes} of {count}"
        for yes, count in zip(cells.sum(), cells.count(), strict=True)
    ]
    return pd.DataFrame(columns, index=cells.sum().index).reset_index()


def criteria(frame: pd.DataFrame) -> pd.DataFrame:
    """Whether more workers learn better data, and the most of them good data.

    Returns:
        One row per `inner_lr` and criterion: `criterion`, `value`, `met`.
    """
    rows = []
    for inner_lr, group in last(frame).groupby("inner_lr"):
        means = group.groupby("workers")[["meta_loss", "gap_ratio"]].mean()
        loss, ratio = means["meta_loss"], means["gap_ratio"]
        most = group[group["workers"] == loss.index.max()]
        whole = int(most["separable"].sum())
        workers = f"{loss.index.max()} workers: "
        checks = [
            (
                f"{workers}mean loss at most {MOST_LOSS}",
                _list(loss.tail(1), 4),
                loss.iloc[-1] <= MOST_LOSS,
            ),
            (
                f"{workers}mean ratio at least {LEAST_RATIO}",
                _list(ratio.tail(1), 1),
                ratio.iloc[-1] >= LEAST_RATIO,
            ),
            (
                f"{workers}separable for every seed",
                f"{whole} of {len(most)}",
                whole == len(most),
            ),
        ]
        if len(loss) > 1:
            checks += [
                ("mean loss falls with workers", _list(loss, 4), loss.diff().max() < 0),
                ("mean ratio rises", _list(ratio, 1), ratio.diff().min() > 0),
            ]
        rows += [(inner_lr, *check) for check in checks]
    return pd.DataFrame(rows, columns=["inner_lr", "criterion", "value", "met"])


def _list(values: pd.Series, digits: int) -> str:
    return ", ".join(f"{value:.{digits}f}" for value in values)


def median_seeds(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per `inner_lr` and `workers`: the seed whose ratio is the median.

    Of an even number of seeds it is the one below the middle.
    """
    ends, seeds = last(frame).sort_values("gap_ratio"), frame["seed"].nunique()
    return ends.groupby(CELL).nth((seeds - 1) // 2).sort_values(CELL)
