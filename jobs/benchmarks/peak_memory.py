"""Peak memory of methods on tasks, in tensor bytes, over that of a plain run.

One trial of each is run in this process as a comparison would run it, with a budget of
so many full runs: a plain run for searches, which hold no more whatever they suggest,
and a descent from the start for all others. What is counted is the most bytes of tensor
storages that were allocated during the trial and alive at once, whatever the device:
exact, the same each time and on every machine, unlike a process's resident memory, in
which trials share what the allocator keeps. Not in it: the data and the problem, which
are there before, the look at the test set, and what one operator or compiled code
allocates inside itself (see `jobs.benchmarks.memory`). Counting slows every operator
down, so comparisons do not.

    python -m jobs.benchmarks.peak_memory --tasks digits --methods random long_term
"""

import argparse
from collections.abc import Sequence
from typing import NamedTuple

from jobs.benchmarks.memory import PeakMemory
from raymeta import tasks
from raymeta.hypergrad.base import plain_cost
from raymeta.search.methods import METHODS, DescentMethod, SearchMethod, get
from raymeta.search.methods.hybrid import HybridMethod
from raymeta.search.spec import StudyKey, TrialSpec
from raymeta.search.worker.trial_runner import reports_of
from raymeta.tasks.base import Task

#: Those that differentiate the same run in other memory.
DEFAULT = ("random", "short_term", "long_term", "checkpointed", "forward")


class Peak(NamedTuple):
    """A row of the table.

    Attributes:
        task: name.
        method: name.
        bytes: the peak.
        over_plain: times that of a plain run.
    """

    task: str
    method: str
    bytes: int
    over_plain: float


def peaks(task: Task, names: Sequence[str], runs: float, seed: int = 0) -> list[Peak]:
    """The peak of each method on a task.

    Raises:
        ValueError: a hybrid, which is a search and then a descent: ask for both; a
            budget that the method cannot begin with; a trial that failed.
    """
    plain = peak_bytes(task, "random", runs, seed)
    found = [peak_bytes(task, name, runs, seed) for name in names]
    return [
        Peak(task.name, name, peak, peak / plain)
        for name, peak in zip(names, found, strict=True)
    ]


def peak_bytes(task: Task, name: str, runs: float, seed: int) -> int:
    """The peak of one trial.

    Raises:
        ValueError: see `peaks`.
    """
    method, problem = get(name), task.sample(seed)
    if isinstance(method, HybridMethod):
        raise ValueError(
            f"method {name!r} is a search and then a descent: ask for those by name"
        )
    budget = runs * plain_cost(problem, task.horizon)
    if isinstance(method, DescentMethod):
        least = method.min_budget(task, problem)
        if least > budget:
            raise ValueError(
                f"method {name!r} takes at least {least:.4g} gradient evaluations on "
                f"task {task.name!r}, but --runs {runs:g} are {budget:.4g}: give more"
            )
    searches = isinstance(method, SearchMethod)
    spec = TrialSpec(
        study=StudyKey(task.name, name, seed),
        number=0,
        kind="search" if searches else "descent",
        hparams=task.space.initial_point() if searches else None,
        budget=budget,
    )
    for _ in reports_of(spec, task, method):  # what the first use of a process loads
        break
    peak = 0
    with PeakMemory() as memory:
        for report in reports_of(spec, task, method):
            if report.kind != "final":  # that one looks at the test set
                peak = memory.peak
            if report.failure:
                raise ValueError(
                    f"method {name!r} fails on task {task.name!r}: {report.failure}"
                )
    return peak


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", default=["digits"])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(DEFAULT))
    parser.add_argument("--runs", type=float, default=20.0)
    given = parser.parse_args()
    print("| task | method | peak MB | over a plain run |\n|---|---|---|---|")
    for name in given.tasks:
        try:
            for row in peaks(tasks.get(name), given.methods, given.runs):
                print(
                    f"| `{row.task}` | `{row.method}` | {row.bytes / 1e6:.3g} "
                    f"| {row.over_plain:.3g} |",
                    flush=True,
                )
        except ValueError as error:
            parser.error(str(error))


if __name__ == "__main__":
    main()
