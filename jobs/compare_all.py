"""All tasks: what hypergradients need to reach what black-box search ends with.

`python jobs/compare_all.py --seeds 5` reproduces the README's table: for every task, in
each seed, the gradient evaluations until the final validation loss of the best
black-box method; medians over seeds. It prints a markdown table and writes it as
table.parquet beside the frame. The same --name resumes.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from raymeta import analysis, tasks
from raymeta.folder import write_frame
from raymeta.search import compare

#: From so many continuous hyperparameters on, the share of black-box search's
#: evaluations that hypergradients should need at most.
AIMS = ((50, 0.1), (5, 1 / 3), (0, 1.0))


def table(frame: pd.DataFrame, counts: dict[str, int]) -> pd.DataFrame:
    """One row per task that has both families.

    Args:
        frame: of a comparison.
        counts: continuous hyperparameters by task.

    Returns:
        `task`, `hyperparameters`; `black_box` (the best method) and its median
        `black_box_evals`; `hypergradient` (the method that needs the fewest) and its
        median `evals`, inf where most seeds never arrive; `ratio` of the two medians;
        `reached` of `seeds`; `aim`, the largest ratio hoped for.
    """
    reached = analysis.to_target(frame)
    summary = analysis.target_summary(reached)
    best = analysis.blackbox_target(frame).groupby("task")["method"].first()
    rows = []
    for task, name in best.items():
        of_task = summary[summary["task"] == task].set_index("method")
        descents = of_task[of_task["family"] == "hypergradient"]
        if descents.empty:
            continue
        # Where none has a median, the one that arrives most often, then soonest.
        order = descents.sort_values(
            ["median", "reached", "expected"], ascending=[True, False, True]
        )
        found, needed = order.iloc[0], float(of_task.loc[name, "median"])
        rows.append(
            {
                "task": task,
                "hyperparameters": counts[task],
                "black_box": name,
                "black_box_evals": needed,
                "hypergradient": order.index[0],
                "evals": float(found["median"]),
                "ratio": float(found["median"]) / needed,
                "reached": int(found["reached"]),
                "seeds": int(found["reached"] + found["censored"]),
                "aim": next(aim for least, aim in AIMS if counts[task] >= least),
            }
        )
    return pd.DataFrame(rows)


def markdown(rows: pd.DataFrame) -> str:
    """The table for people."""
    head = ("task", "λ", "best black-box", "evals", "best hypergradient", "evals")
    lines = [_line([*head, "ratio", "at most", "seeds"]), _line(["---"] * 9)]
    for row in rows.to_dict("records"):
        cells = [
            *(f"`{row['task']}`", f"{row['hyperparameters']}"),
            *(f"`{row['black_box']}`", f"{row['black_box_evals']:,.0f}"),
            *(f"`{row['hypergradient']}`", _number(row["evals"], ",.0f")),
            *(_number(row["ratio"], ".2f"), f"{row['aim']:.2g}"),
            f"{row['reached']} of {row['seeds']}",
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
    add("--tasks", nargs="+", default=tasks.names(), help="by name; all by default")
    add("--methods", nargs="+", help="by name; those of raymeta compare by default")
    add("--seeds", type=int, default=5, help="how many, from 0 (default: 5)")
    add("--budget", type=float, help="gradient evaluations; each task's by default")
    add("--name", default="all", help="of the folder (default: all)")
    add("--storage", default="results", help="where it is (default: results)")
    return parse


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
    path = Path(given["storage"]) / given["name"] / "table.parquet"
    write_frame(rows, path)
    print(f"written: {path}")


if __name__ == "__main__":
    main()
