"""All cells of a comparison: whose trial runs next, and how a killed one continues."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from raymeta.runtime.serialization import REMEDY
from raymeta.search.spec import StudyKey, TrialReport, TrialSpec
from raymeta.search.study.journal import Event, Journal
from raymeta.search.study.study import Study
from raymeta.search.worker.trial_store import TrialStore


class StudyProgress(NamedTuple):
    """Where a cell stands, for progress.

    Attributes:
        share: of the budget spent; 1 when the cell is finished.
        best: lowest outer loss of a full run; inf before the first.
        running: trials in flight.
        failed: failed trials.
        error: the first exception that ended a trial, "" without one.
    """

    cell: StudyKey
    share: float
    best: float
    running: int
    failed: int
    error: str


class Coordinator:
    """The studies of all cells, and the journal that they are written to.

    Args:
        studies: of the cells.
        journal: locked by this process.
        states: what trials save; those that nobody needs any more are removed.
    """

    def __init__(
        self,
        studies: Iterable[Study],
        journal: Journal,
        states: TrialStore | None = None,
    ) -> None:
        self.studies = {study.cell.name: study for study in studies}
        self._journal, self._states = journal, states or TrialStore(None)
        self._heard = False
        self._under_way = [c for c in self.studies.values() if not c.finished]

    @property
    def finished(self) -> bool:
        """Whether every cell is."""
        self._under_way = [c for c in self._under_way if not c.finished]
        return not self._under_way

    def ask(self) -> TrialSpec | None:
        """The next trial, of the cell furthest behind; None if none can start."""
        for study in sorted(self._under_way, key=_precedence):
            if run := study.ask():
                self._journal.write({"event": "start", **_describe(run)})
                return run
        return None  # some may have nothing left: `finished` looks

    def tell(self, run: TrialSpec, messages: Sequence[TrialReport], last: bool) -> bool:
        """Hear what a trial says; return whether it is over."""
        self._heard = True
        said = [message._asdict() for message in messages]
        self._journal.write({"event": "tell", **_key(run), "said": said, "last": last})
        study = self.studies[run.cell]
        over = study.tell(run.number, messages, last)
        if over and study.finished and study in self._under_way:
            self._under_way.remove(study)  # nothing is left that could change it
        for number in study.disused():
            self._states.drop(run.cell, number)
        return over

    def lose(self, run: TrialSpec, reason: str) -> None:
        """The worker of a trial died: the trial runs again, a few times.

        Raises:
            ValueError: it died again and again, and no other trial has ever spoken.
        """
        end = self.studies[run.cell].lose(run.number, reason)
        lacks = "ModuleNotFoundError" in reason  # another attempt would end alike
        if (end or lacks) and not self._heard:
            raise ValueError(
                f"workers must be able to run trials, but every one failed ({reason}): "
                f"for tasks and methods {REMEDY}"
            )
        if end:
            self.tell(run, [end], last=True)

    def replay(self, events: Iterable[Event]) -> None:
        """Bring fresh studies to where a journal ends.

        What is in flight then will run again: a descent goes on where its log was
        saved last, other trials from their start.

        Raises:
            ValueError: a study asks for something else than the journal recorded.
        """
        for event in events:
            if event["event"] == "start":
                self._replay_start(event)
            elif event["event"] == "tell":
                study = self.studies[_cell(event)]
                said = [TrialReport(**message) for message in event["said"]]
                study.tell(event["trial"], said, event["last"])
        for study in self.studies.values():
            for number in list(study.live):
                study.cut(number)
        self._under_way = [c for c in self.studies.values() if not c.finished]

    def _replay_start(self, event: Event) -> None:
        study = self.studies[_cell(event)]
        if event["trial"] in study.live:  # the process had died, or only the worker
            study.cut(event["trial"])
        run = study.ask()
        asked = {"event": "start", **_describe(run)} if run else None
        if asked != event:
            raise ValueError(
                f"cell {study.cell.name} cannot be continued, for code or a library "
                f"has changed: its journal says {event}, its search now says {asked}; "
                "use another name"
            )

    def standings(self) -> list[StudyProgress]:
        """Where every cell stands."""
        return [_standing(study) for study in self.studies.values()]


def _precedence(study: Study) -> tuple[int, float]:
    return len(study.live), study.spent / study.cell.budget


def _standing(study: Study) -> StudyProgress:
    share = min(1.0, study.spent / study.cell.budget)
    return StudyProgress(
        cell=study.cell.name,
        share=1.0 if study.finished else share,
        best=study.best[0] if study.best else math.inf,
        running=len(study.live),
        failed=study.failed,
        error=study.error,
    )


def _key(run: TrialSpec) -> dict[str, Any]:
    return {"cell": list(run.cell), "trial": run.number}


def _describe(run: TrialSpec) -> dict[str, Any]:
    described = {**_key(run), "kind": run.kind, "hparams": run.hparams}
    if run.constant:
        described["constant"] = True
    if run.before:
        described["before"] = [list(segment) for segment in run.before]
    return described


def _cell(event: Event) -> StudyKey:
    return StudyKey(*event["cell"])
