"""What tests of tables and of figures look at alike."""

import numpy as np
import pandas as pd

from raymeta.analysis.tables.hparams import MANY


def path(table, method, seed, name="lr"):
    """The points (gradient evaluations, value) of a method's hyperparameter."""
    chosen = (table["method"] == method) & (table["seed"] == seed)
    rows = table[chosen & (table["hyperparameter"] == name)]
    return rows[["gradient_evals", "value"]].to_numpy().tolist()


def many(frame, count=MANY + 1):
    """Give each report `count` learning rates: lr, 2 lr, …."""
    columns = {f"hp/rate[{i}]": frame["hp/lr"] * (i + 1) for i in range(count)}
    return pd.concat([frame, pd.DataFrame(columns)], axis=1)


def line(table, method, task="digits"):
    """A method's median and quartiles."""
    chosen = table[(table["method"] == method) & (table["task"] == task)]
    return chosen.set_index("x")[["median", "q25", "q75"]]


def lines_of(axes):
    """The lines of a figure by their names."""
    return {line.get_gid(): line for line in axes.lines if line.get_gid()}


def images():
    """Ten learned images of 8 by 8."""
    return {
        "kind": np.array("images"),
        "images": np.zeros((10, 8, 8)) + np.arange(10)[:, None, None],
        "labels": np.arange(10),
    }
