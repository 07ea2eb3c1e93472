"""Trials in this process: what a worker would run on Ray."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from raymeta.search.spec import TrialSpec
from raymeta.search.study.coordinator import Coordinator
from raymeta.search.worker.trial_runner import reports_of
from raymeta.search.worker.trial_store import TrialStore


def run_trial(
    coordinator: Coordinator, run: TrialSpec, states: TrialStore | None = None
) -> None:
    """Run a trial until it ends or is stopped.

    Args:
        coordinator: what is told of its reports.
        run: a trial that it gave.
        states: keeps the training states; nothing by default.
    """
    spec = coordinator.studies[run.study].spec
    for report in reports_of(run, spec.task, spec.method, states):
        if coordinator.record(run, [report], last=False):
            return
    coordinator.record(run, [], last=True)


@contextmanager
def comparisons(stop_after: int | None = None) -> Iterator[None]:
    """While this is open, trials of `compare` run in this process, one by one.

    Args:
        stop_after: trials after which Ctrl-C ends the comparison.
    """

    def run(plan: Any, coordinator: Coordinator, whole: Any, *others: Any) -> bool:
        whole.folder.record_run()
        count = 0
        while trial := coordinator.request_trial():
            if count == stop_after:
                raise KeyboardInterrupt
            count += 1
            run_trial(coordinator, trial)
        return True

    with mock.patch.object(sys.modules["raymeta.search.compare"], "_run", run):
        yield
