"""The scaling figure: a data set learnt by 1, 2, 4 and 8 workers.

Points in the plane are learnt such that random linear classifiers lose little on them
after three steps of descent. At each outer step every worker draws a classifier of its
own, so more workers average over more of them. All runs are computed in this process,
with the workers' draws averaged; real workers, processes on Ray, must then learn the
same points to 1e-5.

Run by hand this starts an embedded Ray. `ray job submit --working-dir . -- python
-m jobs.experiments.scaling --out /shared/scaling` uses the cluster, which needs a CPU
for each real worker; the folder must be one that all nodes see and that outlives the
job.

Source: Grefenstette et al. 2019, the authors' distributed example.
"""

import argparse
import time
from pathlib import Path

import pandas as pd
import torch

from jobs.benchmarks.cli import folder
from jobs.experiments.scaling_figures import write_figures
from jobs.experiments.scaling_runs import (
    FRESH,
    Measure,
    Tables,
    measured,
    settings,
    together,
)
from jobs.experiments.scaling_tables import criteria, table
from jobs.experiments.scaling_workers import TOLERANCE, compare_workers
from raymeta.cli import exit_code

MEASUREMENTS = 20


def main(arguments: list[str] | None = None) -> None:
    """Learn, measure, write, draw; fail if real workers learn something else."""
    options = parse(arguments)
    # The tensors are small, and Ray's workers have one thread each, too.
    torch.set_num_threads(1)
    tables = learn_all(options)
    for name, rows in tables._asdict().items():
        rows.to_parquet(options.out / f"{name}.parquet", index=False)
    show("Learnt in the end: means over seeds ± 95 %", table(tables.frame))
    show("Figures to reach", criteria(tables.frame))
    for file in write_figures(options.out):
        say(f"drawn: {file}")
    if options.real_workers != "none":
        require_equality(options, tables.points, options.out)


def learn_all(options: argparse.Namespace) -> Tables:
    """All runs, with the draws of their workers averaged."""
    begun = time.monotonic()
    runs: list[Tables] = []
    every = max(1, options.steps // MEASUREMENTS)
    for inner_lr in options.inner_lrs:
        for workers in options.workers:
            config = settings(inner_lr, workers, range(options.seeds), options.steps)
            measure = Measure(config.family, options.fresh)
            runs += measured(config, measure, every)
            took = time.monotonic() - begun
            say(
                f"inner_lr {inner_lr:g}, workers {workers}: {options.seeds} seeds "
                f"learnt, {took:.0f} s so far"
            )
    return together(runs)


def require_equality(
    options: argparse.Namespace, points: pd.DataFrame, out: Path
) -> None:
    """Raise SystemExit unless real workers learn the points of averaged draws."""
    everything = options.real_workers == "all"
    rates = options.inner_lrs if everything else options.inner_lrs[:1]
    seeds = range(options.seeds if everything else 1)
    configs = [
        settings(inner_lr, workers, seeds, options.steps)
        for inner_lr in rates
        for workers in options.workers
    ]
    say("\nReal workers")
    differences = compare_workers(configs, points, out, say)
    if not all(difference <= TOLERANCE for difference in differences):
        raise SystemExit(
            f"real workers must learn the points of averaged draws to {TOLERANCE:g}, "
            "but did not: see above"
        )
    if differences:
        say(f"points differ by at most {max(differences):.1e}")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The flags; those of --quick in place of the others."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add(
        "--out",
        type=folder,
        default="results/scaling",
        help="folder of the results",
    )
    add(
        "--workers",
        nargs="+",
        type=int,
        default=[1, 2, 4, 8],
        help="how many",
    )
    add(
        "--inner-lrs",
        nargs="+",
        type=float,
        default=[0.01, 0.1],
        help="learning rates",
    )
    add("--seeds", type=int, default=10, help="how many, from 0")
    add("--steps", type=int, default=500, help="outer steps")
    add("--fresh", type=int, default=FRESH, help="classifiers that judge")
    add(
        "--real-workers",
        choices=("one", "all", "none"),
        default="one",
        help="which runs real workers do again: the first inner rate and seed for each "
        "number of workers, all runs, or none",
    )
    add("--quick", action="store_true", help="2 seeds of 20 steps, at most 2 workers")
    options = parser.parse_args(arguments)
    if options.quick:
        options.seeds, options.steps, options.fresh = 2, 20, 200
        options.workers = [count for count in options.workers if count <= 2]
    return options


def show(title: str, rows: pd.DataFrame) -> None:
    """Print a table."""
    say(f"\n{title}\n{rows.to_string(index=False)}")


def say(line: str) -> None:
    """Print a line, at once."""
    print(line, flush=True)


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
