"""The hyperparameters that a descent learnt, run by run, to train along again."""

import numpy as np
import pandas as pd

from raymeta.analysis.tables.frames import STUDY, studies
from raymeta.results.schema import BLACK_BOX, HYBRID, PREFIX

MOST = 24  # runs
ONLINE = 4  # reports of one run: more say that λ changed while training went on


def incumbents(study: pd.DataFrame) -> pd.DataFrame:
    """Return the reports of one study, in order, that set a new best full-horizon loss.

    Args:
        study: the rows of one study.

    Returns:
        The rows with status `complete` whose `outer_loss` is below all before, without
        those below what a descent returns in the end.
    """
    rows = study[study["status"] == "complete"].dropna(subset=["outer_loss"])
    rows = rows[rows["outer_loss"] >= rows["best_outer_loss"]]
    rows = rows.sort_values("gradient_evals", kind="stable")
    before = rows["outer_loss"].cummin().shift(fill_value=np.inf)
    return rows[rows["outer_loss"] < before]


def best_run(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the reports of the training run that ended with a study's lowest loss.

    Args:
        rows: the reports of one hypergradient study.

    Returns:
        The reports from the run's first to its complete one, in order; none when no run
        was completed. Where runs have more than four reports, of those: between them, a
        descent looks around by plain runs.
    """
    rows = rows.sort_values("gradient_evals", kind="stable").reset_index(drop=True)
    run = (rows["inner_steps"] <= rows["inner_steps"].shift(fill_value=0)).cumsum()
    within = run.map(run.value_counts()) > ONLINE
    best = incumbents(rows[within]) if within.any() else incumbents(rows)
    if not len(best):
        return rows.iloc[:0]
    end = best.index[-1]
    return rows[(run == run[end]) & (rows.index <= end)]


def best_hparams(frame: pd.DataFrame, task: str, seed: int) -> dict[str, object]:
    """Return λ of the lowest full-horizon loss of any method, by flat name.

    Args:
        frame: one row per report.
        task: which task.
        seed: which seed.

    Raises:
        ValueError: no run of the task and seed ended with a finite loss.
    """
    rows = frame[(frame["task"] == task) & (frame["seed"] == seed)]
    best = incumbents(rows)
    if not len(best):
        raise ValueError(
            f"a surface lies around a run with a finite loss, but {task!r} has none "
            f"under seed {seed}: let the comparison go on"
        )
    return _hparams(best.iloc[-1])


def learnt_hparams(
    frame: pd.DataFrame, task: str, seed: int
) -> tuple[str, list[dict[str, object]]]:
    """Follow the λ of the best method whose runs have a constant one.

    Args:
        frame: one row per report.
        task: which task.
        seed: which seed.

    Returns:
        The method's name, and λ by flat name at its first report, at those of shorter
        runs, and at each full run that was better than those before: at most 24. Of
        hypergradient methods, if any has full runs in at least half of its reports
        (others, and hybrids, change λ within a run); else of black-box ones.

    Raises:
        ValueError: no such method has a run that ended with a finite loss.
    """
    rows = frame[(frame["task"] == task) & (frame["seed"] == seed)]
    table = studies(rows[rows["status"] != "final"]).dropna(subset=["best_outer_loss"])
    full = rows[rows["status"] == "complete"].groupby(STUDY).size()
    running = rows[rows["status"] == "running"].groupby(STUDY).size()
    share = full / full.add(running, fill_value=0)
    index = pd.MultiIndex.from_frame(table[STUDY])
    constant = (share.reindex(index) >= 0.5).to_numpy() | (table["family"] == BLACK_BOX)
    constant &= (table["family"] != HYBRID).to_numpy()
    table = table[constant].sort_values("best_outer_loss")
    if not len(table):
        raise ValueError(
            f"loss curves need a method with full runs at constant hyperparameters, "
            f"but {task!r} has none under seed {seed}: add long_term"
        )
    ordered = table.sort_values("family", ascending=False, kind="stable")
    method, family = ordered[["method", "family"]].iloc[0]
    own = rows[(rows["method"] == method) & (rows["status"] != "final")]
    own = own.sort_values("gradient_evals", kind="stable").reset_index(drop=True)
    kept = incumbents(own).index
    if family != BLACK_BOX:
        kept = kept.union(own.index[own["status"] == "running"])
    kept = kept.union([0])
    if len(kept) > MOST:
        kept = kept[np.linspace(0, len(kept) - 1, MOST).astype(int)]
    return str(method), [_hparams(own.loc[place]) for place in kept]


def _hparams(row: pd.Series) -> dict[str, object]:
    """The hyperparameters of a report; those of other tasks are missing there."""
    return {
        str(name).removeprefix(PREFIX): value
        for name, value in row.items()
        if str(name).startswith(PREFIX) and pd.notna(value)
    }
