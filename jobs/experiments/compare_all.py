"""All tasks: what hypergradients need to reach what black-box search ends with.

`python -m jobs.experiments.compare_all --seeds 5` reproduces the table of
docs/results.md: for every task, in each seed, the gradient evaluations until the final
validation loss of the best black-box method; medians over seeds, of the best pure
hypergradient method and of the best hybrid. It prints a markdown table and writes it as
table.parquet beside the frame. The same --name resumes.
"""

import argparse
import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from raymeta import analysis, tasks
from raymeta.cli import exit_code
from raymeta.results.mirror import address, local
from raymeta.results.run_folder import run_address, write_frame
from raymeta.search import compare

#: Those of the table of docs/results.md.
METHODS = (
    *("random", "asha", "tpe"),
    *("auto", "short_term", "long_term", "truncated"),
    *("tpe_descent", "restarts"),
)

#: From so many continuous hyperparameters on, the share of black-box search's
#: evaluations that hypergradients should need at most.
AIMS = ((50, 0.1), (5, 1 / 3), (0, 1.0))

#: Which are compared with black-box search, each for itself.
FAMILIES = ("hypergradient", "hybrid")


def table(frame: pd.DataFrame, counts: dict[str, int]) -> pd.DataFrame:
    """One row per task that black-box search and gradients were run on.

    Args:
        frame: a comparison's, one row per report.
        counts: continuous hyperparameters by task.

    Returns:
        `task`, `hyperparameters`; `black_box` (the best method) and its median
        `black_box_evals`; of pure hypergradient methods, which search nothing,
        `hypergradient` (the one that needs the fewest), its median
        `hypergradient_evals`, inf where most seeds never arrive, `hypergradient_ratio`
        of the two medians and the seeds that it `hypergradient_reached` the target in;
        the same four of hybrids; `seeds`; `aim`, the largest ratio hoped for. A family
        that was not run has "" and NaN.
    """
    summary = analysis.target_summary(analysis.to_target(frame))
    best = analysis.blackbox_target(frame).groupby("task")["method"].first()
    rows = []
    for task, name in best.items():
        of_task = summary[summary["task"] == task].set_index("method")
        if not of_task["family"].isin(FAMILIES).any():
            continue
        needed = float(of_task.loc[name, "median"])
        row = {
            "task": task,
            "hyperparameters": counts[task],
            "black_box": name,
            "black_box_evals": needed,
        }
        for family in FAMILIES:
            row |= _best_of(of_task[of_task["family"] == family], family, needed)
        of_best = of_task.loc[name]
        row["seeds"] = int(of_best["reached"] + of_best["censored"])
        row["aim"] = next(aim for least, aim in AIMS if counts[task] >= least)
        rows.append(row)
    return pd.DataFrame(rows)


def _best_of(methods: pd.DataFrame, family: str, needed: float) -> dict[str, Any]:
    """The method of a family that needs the fewest evaluations."""
    # Where none has a median, the one that arrives most often, then soonest.
    order = methods.sort_values(
        ["median", "reached", "expected"], ascending=[True, False, True]
    )
    name = order.index[0] if len(order) else ""
    evals = float(order["median"].iloc[0]) if len(order) else math.nan
    return {
        family: name,
        f"{family}_evals": evals,
        f"{family}_ratio": evals / needed,
        f"{family}_reached": int(order["reached"].iloc[0]) if len(order) else 0,
    }


def markdown(rows: pd.DataFrame) -> str:
    """The table for people."""
    head = ["task", "λ", "best black-box", "evals", "at most"]
    for family in FAMILIES:
        head += [f"best {family}", "evals", "ratio", "seeds"]
    lines = [_line(head), _line(["---"] * len(head))]
    for row in rows.to_dict("records"):
        cells = [
            *(f"`{row['task']}`", f"{row['hyperparameters']}"),
            *(f"`{row['black_box']}`", f"{row['black_box_evals']:,.0f}"),
            f"{row['aim']:.2g}",
        ]
        for family in FAMILIES:
            if not row[family]:
                cells += ["–"] * 4
                continue
            cells += [
                f"`{row[family]}`",
                _number(row[f"{family}_evals"], ",.0f"),
                _number(row[f"{family}_ratio"], ".2f"),
                f"{row[f'{family}_reached']} of {row['seeds']}",
            ]
        lines.append(_line(cells))
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _number(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else "never"


def parser() -> argparse.ArgumentParser:
    """The flags."""
    parse = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parse.add_argument
    add(
        "--tasks",
        nargs="+",
        default=tasks.names(),
        help="by name; all by default",
    )
    add(
        "--methods",
        nargs="+",
        default=METHODS,
        help="by name; the table's by default",
    )
    add("--seeds", type=int, default=5, help="how many seeds, from 0 (default: 5)")
    add("--budget", type=float, help="gradient evaluations; each task's by default")
    add("--name", default="all", help="folder of the results (default: all)")
    add("--storage", default="results", help="where the folder is (default: results)")
    return parse


def write_table(rows: pd.DataFrame, storage: str, name: str) -> None:
    """Write a table beside the frame of a comparison, and say where."""
    with local(run_address(storage, name)) as folder:
        path = folder / "table.parquet"
        write_frame(rows, path)
        print(f"written: {address(path)}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare, or read what was compared; print and write the table."""
    given: dict[str, Any] = vars(parser().parse_args(arguments))
    frame = compare(**given)
    some = [tasks.get(name) for name in given["tasks"]]
    counts = {
        task.name: len(task.space.flat_domains()) - len(task.space.choices)
        for task in some
    }
    rows = table(frame, counts)
    print("\n" + markdown(rows) + "\n")
    write_table(rows, given["storage"], given["name"])


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
