"""The tuning list: how often a method ends no worse than others, and how soon.

`python -m jobs.experiments.tuning.compare --seeds 200 201` trains 26 small tasks, half
of which start badly, by the methods named, each with a budget of 30 training runs, and
prints what a method (`auto` by default) came to against each of the others. Constants
are chosen on seeds below 50. It writes the table beside the frame; the same --name
resumes.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import pandas as pd

from jobs.experiments.compare_all import write_table
from jobs.experiments.tuning.tasks import TUNING
from raymeta import search
from raymeta.analysis.tables.incumbents import incumbents
from raymeta.cli import exit_code
from raymeta.results.schema import TUNING_FREE
from raymeta.search.methods.tuning_free import RULES

#: Differences of final outer losses below these shares of them do not count.
TOLERANCES = 0.001, 0.01


def table(frame: pd.DataFrame, method: str) -> pd.DataFrame:
    """One row per other method: how a method ended against it.

    Args:
        frame: a comparison's, one row per report.
        method: the one that is held against all others.

    Returns:
        `against`, for tuning-free methods also the best of them in each task and seed;
        `cells`, tasks × seeds that both were run on; `not_worse` and
        `not_worse_by_1_percent`, the share of them in which the method's final outer
        loss is at most the other's, but for .1 and 1 % of it; `sooner`, the share in
        which it reaches the other's final loss with at most the evaluations that the
        other needed, and `in_a_third` with a third of them.
    """
    final = frame[frame["status"] == "final"]
    ends = final.pivot(
        index=["task", "seed"], columns="method", values="best_outer_loss"
    )
    rows = []
    rivals = {other: [other] for other in ends.columns.drop(method)}
    free = final.loc[final["family"] == TUNING_FREE, "method"].unique()
    if len(free) > 1:
        rivals[f"best {TUNING_FREE}"] = list(free)
    for other, names in rivals.items():
        both = ends.assign(**{other: ends[names].min(axis=1)})[[method, other]].dropna()
        slack = [both[other] + share * both[other].abs() for share in TOLERANCES]
        ratios = pd.Series(
            {
                key: _evals(frame, (*key, method), target)
                / min(_evals(frame, (*key, name), target) for name in names)
                for key, target in both[other].items()
            }
        )
        rows.append(
            {
                "against": other,
                "cells": len(both),
                "not_worse": (both[method] <= slack[0]).mean(),
                "not_worse_by_1_percent": (both[method] <= slack[1]).mean(),
                "sooner": (ratios <= 1).mean(),
                "in_a_third": (ratios <= 1 / 3).mean(),
            }
        )
    return pd.DataFrame(rows)


def _evals(frame: pd.DataFrame, cell: tuple[str, int, str], target: float) -> float:
    """Gradient evaluations of a cell until an outer loss, ∞ without end."""
    task, seed, method = cell
    path = incumbents(
        frame[
            (frame["task"] == task)
            & (frame["seed"] == seed)
            & (frame["method"] == method)
        ]
    )
    there = path[path["best_outer_loss"] <= target]
    return float(there["gradient_evals"].min()) if len(there) else float("inf")


def parser() -> argparse.ArgumentParser:
    """The flags."""
    parse = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parse.add_argument
    add(
        "--tasks", nargs="+", default=list(TUNING), choices=list(TUNING), metavar="TASK"
    )
    add("--methods", nargs="+", default=["auto", "tpe", "asha", "long_term", *RULES])
    add("--method", default="auto", help="held against the others (default: auto)")
    add("--seeds", nargs="+", type=int, default=[200, 201])
    add("--name", default="tuning", help="folder of the results (default: tuning)")
    add("--storage", default="results", help="where the folder is (default: results)")
    return parse


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare, or read what was compared; print and write the table."""
    given: dict[str, Any] = vars(parser().parse_args(arguments))
    method = given.pop("method")
    given["tasks"] = [TUNING[name] for name in given["tasks"]]
    rows = table(search.compare(**given), method)
    print(f"\n{method}\n{rows.round(2).to_string(index=False)}\n")
    write_table(rows, given["storage"], given["name"])


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
