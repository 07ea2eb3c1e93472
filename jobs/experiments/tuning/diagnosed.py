"""How well a diagnosis tells beforehand how well a descent does: rank correlations.

`python -m jobs.experiments.tuning.diagnosed --name tuning` reads what
`jobs.experiments.tuning.compare` of that name has compared, diagnoses its tasks under
its seeds, and prints Spearman's correlation over tasks of what a diagnosis measures
with the success of `long_term`: the mean over seeds of ln (E of TPE / E of
`long_term`), after the same budget; and with its progress, ln (E at the start / E of
`long_term`).
"""

import argparse
import math
from collections.abc import Iterable, Sequence

import pandas as pd

from jobs.experiments.tuning.tasks import TUNING
from raymeta.cli import exit_code
from raymeta.outer.diagnose import diagnose
from raymeta.outer.diagnosis import Diagnosis
from raymeta.results.integrity import read_parquet
from raymeta.results.mirror import local
from raymeta.results.run_folder import run_address

#: A study of a frame.
KEYS = ["task", "method", "seed"]
#: Losses below it are as good as 0.
LEAST = 1e-6


def success(frame: pd.DataFrame) -> pd.DataFrame:
    """Ln (E of TPE / E of `long_term`), and ln (E at the start / E of `long_term`).

    Args:
        frame: a comparison of both.

    Returns:
        `success` and `progress` by task, means over the seeds that both were run on.
    """
    ends = _losses(frame[frame["status"] == "final"])
    start = _losses(frame[frame["status"] == "complete"].groupby(KEYS).head(1))
    end = ends["long_term"]
    found = pd.DataFrame(
        {
            "success": (ends["tpe"] / end).map(math.log),
            "progress": (start["long_term"] / end).map(math.log),
        }
    )
    return found.dropna().groupby("task").mean()


def _losses(rows: pd.DataFrame) -> pd.DataFrame:
    losses = rows.assign(outer_loss=rows["outer_loss"].clip(lower=LEAST))
    return losses.pivot(index=["task", "seed"], columns="method", values="outer_loss")


def measured(diagnoses: Iterable[Diagnosis]) -> pd.DataFrame:
    """What each diagnosis says in numbers, means over seeds by task."""
    rows = [
        {
            "task": d.task,
            "score": d.score,
            "agreement": max(d.agreement, -1.0),
            "metasmoothness": d.jumps,
            "ln_effective": math.log(d.effective) if d.effective else 0.0,
            "ln_steepness": math.log1p(d.steepness),
            "ln_hyperparameters": math.log(d.hyperparameters),
            "ln_growth": math.log(max(d.growth, 1.0)),
        }
        for d in diagnoses
    ]
    return pd.DataFrame(rows).groupby("task").mean()


def correlations(measures: pd.DataFrame, outcome: pd.DataFrame) -> pd.DataFrame:
    """Spearman's, a row per measure and a column per outcome, over their tasks."""
    both = measures.join(outcome, how="inner").corr(method="spearman")
    return both.loc[measures.columns, outcome.columns]


def main(arguments: Sequence[str] | None = None) -> None:
    """Read, diagnose, and print."""
    parse = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parse.add_argument("--name", default="tuning", help="folder of the comparison")
    parse.add_argument("--storage", default="results", help="where the folder is")
    given = parse.parse_args(arguments)
    with local(run_address(given.storage, given.name)) as folder:
        frame = read_parquet(folder / "frame.parquet")
    frame = frame[frame["method"].isin(["long_term", "tpe"])]
    outcome = success(frame)
    measures = measured(
        diagnose(TUNING[task], seed=int(seed))
        for task, seed in frame[["task", "seed"]].drop_duplicates().to_numpy()
    )
    table = measures.join(outcome).sort_values("success", ascending=False)
    print(table.round(2).to_string())
    print(f"\nSpearman over {len(table)} tasks")
    print(correlations(measures, outcome).round(2).to_string())


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
