"""`raymeta compare`."""

import argparse
import sys
import warnings
from dataclasses import dataclass

from raymeta.cli import config, dry_run, finished, output
from raymeta.cli.report import say, summary
from raymeta.cli.settings import resumable, setting
from raymeta.results.overfitting import Overfitting
from raymeta.results.validity import InvalidComparison


@dataclass(frozen=True, kw_only=True)
class CompareSettings:
    """Settings of `raymeta compare`."""

    tasks: tuple[str, ...] = setting(
        ("digits",), "tasks, by name, or your own as path.py:Name"
    )
    methods: tuple[str, ...] | None = setting(
        None,
        "methods, or estimators, by name; `all`: every method of `raymeta list`; "
        "automatic: random asha tpe short_term long_term forward_online forward",
    )
    budget: float | None = setting(
        None, "gradient evaluations per task, method and seed; automatic: the task's"
    )
    seeds: int = setting(3, "how many seeds, from 0")
    name: str | None = setting(
        None, "folder of the results; the same name resumes; automatic: task and time"
    )
    storage: str = setting("results", "where the folder is")
    slots: int | None = setting(None, "trials at once; automatic: Ray's CPUs")
    at_once: int = setting(
        1,
        "trials in flight of a search to which the order of results matters (tpe, …)",
    )
    workers_per_trial: int = setting(
        1, "processes that share the examples of each trial, see docs/distributed.md"
    )
    gpus_per_trial: float | None = setting(
        None, "GPUs of a trial, or a share of one; automatic: none"
    )


def run(arguments: argparse.Namespace) -> None:
    """Compare methods on tasks; print the ranking, draw figures and page."""
    settings, as_json = config.read(arguments, CompareSettings), arguments.json
    if arguments.dry_run:
        output.print_summary(dry_run.of_comparison(settings), as_json)
        return
    if (said := finished.recall(settings, settings.name)) is not None:
        if not (as_json or arguments.quiet):
            print("it had finished before")
        say(dict(said), as_json)
        return
    if sys.stdout.isatty() and not (as_json or arguments.quiet):
        # Until the first line takes its place: importing Ray takes seconds.
        print("raymeta: preparing the comparison", end="\r", flush=True)
    from raymeta.results.run_folder import run_address, run_name

    name = run_name(settings.storage, settings.name, settings.tasks)
    with (
        output.progress(arguments, as_json=as_json),
        resumable("compare", settings, name),
        warnings.catch_warnings(),
    ):
        from raymeta.search import compare

        # `say` says so, and ends with an error where it is not valid.
        warnings.simplefilter("ignore", InvalidComparison)
        warnings.simplefilter("ignore", Overfitting)
        frame = compare(
            settings.tasks,
            settings.methods,
            budget=settings.budget,
            seeds=settings.seeds,
            name=name,
            storage=settings.storage,
            slots=settings.slots,
            at_once=settings.at_once,
            workers_per_trial=settings.workers_per_trial,
            gpus_per_trial=settings.gpus_per_trial or 0.0,
            ranking=False,  # which `say` prints, without progress and as JSON, too
        )
    from raymeta.results.mirror import local

    with local(run_address(settings.storage, name)) as path:
        found = summary(path, frame)
    finished.keep(settings, name, found)
    say(found, as_json)
