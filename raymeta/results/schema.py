"""Schema of all frames: columns, dtypes, families; and how older files are read.

Files have checksums since version 2, see `raymeta.results.integrity`. Before version 1,
`forward` was the online method and `forward_long` forward mode
through the whole run. Frames, records and journals without a version are of that time:
frames and records are read with the names that their methods have today.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

#: Under this key, frames (`attrs`, which parquet keeps) and records have their version.
KEY, VERSION = "schema", 2

#: Names of methods before version 1 -> their names today.
RENAMED = {"forward": "forward_online", "forward_long": "forward"}

#: Families of methods.
BLACK_BOX, HYPERGRADIENT, HYBRID = "black-box", "hypergradient", "hybrid"
TUNING_FREE = "tuning-free"
FAMILIES = (BLACK_BOX, HYPERGRADIENT, HYBRID, TUNING_FREE)

#: Before the flat name of a hyperparameter, and that of a metric on the test set.
PREFIX, TEST = "hp/", "test_"

#: Columns of a frame of reports, with their dtypes; metrics and hyperparameters follow.
REPORTS = {
    "task": "str",
    "method": "str",
    "family": "str",
    "seed": "int64",
    "trial": "int64",
    "parent": "int64",
    "outer_step": "int64",
    "inner_steps": "int64",
    "gradient_evals": "float64",
    "flops": "float64",
    "wall_s": "float64",
    "outer_loss": "float64",
    "best_outer_loss": "float64",
    "agreement": "float64",
    "roughness": "float64",
    "rejected": "float64",
    "offset": "float64",
    "holdout_loss": "float64",
    "standard_error": "float64",
    "examples": "float64",
    "status": "str",
    "failure": "str",
}
#: What a descent says about slopes, see `raymeta.outer.report.Report`: NaN for other
#: methods, and not in older frames.
TRUST = ("agreement", "roughness", "rejected", "offset")
#: What tells of overfitting, see `raymeta.results.overfitting`: not in older frames.
HELD_OUT = ("holdout_loss", "standard_error", "examples")
#: Those that every frame of reports has; `parent` and `flops` are a comparison's.
REQUIRED_COLUMNS = tuple(
    name for name in REPORTS if name not in ("parent", "flops", *TRUST, *HELD_OUT)
)

#: Columns of outer losses along training, see `raymeta.outer.landscape`.
CURVE_COLUMNS = ("task", "seed", "outer_step", "inner_steps", "outer_loss")

#: Columns of a meta-training's frame, with their dtypes; metrics follow.
TRAINING = {
    "algorithm": "str",
    "family": "str",
    "seed": "int64",
    "split": "str",
    "outer_step": "int64",
    "rank": "int64",
    "workers": "int64",
    "attempt": "int64",
    "tasks": "int64",
    "inner_steps": "int64",
    "outer_loss": "float64",
    "ci95": "float64",
    "median": "float64",
    "grad_norm": "float64",
    "skipped": "bool",
    "step_s": "float64",
    "wall_s": "float64",
}


def frame_of(
    rows: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    others: Mapping[str, str | None],
) -> "pd.DataFrame":
    """A frame of reports.

    Args:
        rows: values by column; what one lacks stays empty.
        names: some of `REPORTS`.
        others: columns that follow, with their dtypes; None is what the values are.
    """
    import pandas as pd

    dtypes = {**{name: REPORTS[name] for name in names}, **others}
    frame = pd.DataFrame(rows, columns=list(dtypes))
    # Not strings: pandas before 3 would turn a missing one into "nan".
    cast = {name: d for name, d in dtypes.items() if d is not None and d != "str"}
    frame = frame.astype(cast)
    frame.attrs[KEY] = VERSION
    return frame


def hparam_columns(point: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a point."""
    return {f"{PREFIX}{name}": value for name, value in point.items()}


def current_frame(frame: "pd.DataFrame") -> "pd.DataFrame":
    """A frame as it was read, with today's names of methods.

    Only frames of comparisons may have the old names: others name estimators' classes.
    """
    if KEY in frame.attrs or "method" not in frame:
        return frame
    frame = frame.assign(method=frame["method"].replace(RENAMED))
    frame.attrs[KEY] = VERSION
    return frame


def current_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """A comparison.json or spending.json as it was read, with today's names."""
    current = dict(record)
    if "methods" in record:
        # Before there was a choice.
        current = {"at_once": 1, "workers_per_trial": 1, **current}
    if KEY in record:
        return current
    if "methods" in record:
        current["methods"] = {
            RENAMED.get(name, name): _settings(name, text)
            for name, text in record["methods"].items()
        }
    for part in ("skipped", "cells"):
        if part in record:
            rows = record[part]
            current[part] = [
                row | {"method": RENAMED.get(row["method"], row["method"])}
                for row in rows
            ]
    return current


def _settings(name: str, text: str) -> str:
    """A method's settings as text: what descents were, and are called today."""
    new = RENAMED.get(name, name)
    then, now = (f"Descent(name={name!r}", f"HypergradientDescent(name={new!r}")
    return text.replace(then, now)
