"""Trials in this process: what a worker would run on Ray."""

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
