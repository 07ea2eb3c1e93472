"""What ranks of one descent share of what is kept: rank 0's, and it alone writes."""

from collections.abc import Callable, Iterator

from torch import distributed as dist
from torch.distributed import ProcessGroup

from raymeta.distributed.agreement import agreed
from raymeta.search.spec import StudyKey
from raymeta.search.worker.evaluation_log import EvaluationLog, LogRecord, Snapshot
from raymeta.search.worker.trial_store import TrialStore
from raymeta.types import State


class ReceivedLog(EvaluationLog):
    """The log of rank 0 on another rank, where nothing is written.

    Args:
        snapshot: how far evaluations count.
        records: the evaluations.
    """

    def __init__(self, snapshot: Snapshot, records: list[LogRecord]) -> None:
        super().__init__(None, "")
        self.snapshot, self._records = snapshot, records

    def records(self) -> Iterator[LogRecord]:
        """What was received, in order."""
        return iter(self._records)


def shared_log(
    log_of: Callable[[], EvaluationLog], group: ProcessGroup
) -> EvaluationLog:
    """The same evaluations on all ranks: those that rank 0 finds.

    Args:
        log_of: opens the log.
        group: the ranks, all of which must call this.
    """
    log, found = None, None
    if dist.get_rank(group) == 0:
        log = log_of()
        found = log.snapshot, list(log.records())
    found = agreed(found, group)
    return ReceivedLog(*found) if log is None else log


class SharedStore(TrialStore):
    """A trial store on each rank of a trial.

    Args:
        states: that of one process.
        group: the ranks, all of which must call each method but `save`.
    """

    def __init__(self, states: TrialStore, group: ProcessGroup) -> None:
        self._states, self._group = states, group
        self._writes = dist.get_rank(group) == 0

    def save(self, study: StudyKey, number: int, steps: int, state: State) -> None:
        """Keep the state of a trial, on rank 0."""
        if self._writes:
            self._states.save(study, number, steps, state)

    def load(
        self, study: StudyKey, number: int, steps: int, like: State
    ) -> State | None:
        """The state that rank 0 finds, on every rank; None where it finds none."""
        found = None
        if self._writes:
            found = self._states.load(study, number, steps, like)
        return agreed(found, self._group)

    def log(self, study: StudyKey, number: int, signature: str) -> EvaluationLog:
        """The evaluations that rank 0 finds."""
        return shared_log(
            lambda: self._states.log(study, number, signature), self._group
        )
