"""Coordinator of all studies of a comparison: whose trial is next, what is replayed."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from raymeta.outer.report import Report
from raymeta.results.jsonlines import JsonLines
from raymeta.runtime.serialization import REMEDY
from raymeta.search.spec import StudyKey, TrialSpec
from raymeta.search.study.study import Study
from raymeta.search.worker.trial_store import TrialStore

#: A line of the journal: a trial that started, or what one said.
Event = dict[str, Any]


class StudyProgress(NamedTuple):
    """How far a study has come, for people.

    Attributes:
        key: names the study.
        share: part of the budget that is spent; 1 when the study is finished.
        best: lowest outer loss of a full run; inf before the first.
        running: trials in flight.
        failed: failed trials.
        error: the first exception that ended a trial, "" without one.
    """

    key: StudyKey
    share: float
    best: float
    running: int
    failed: int
    error: str


class Coordinator:
    """The studies of a comparison, and the journal that they are written to.

    Args:
        studies: as they begin.
        journal: the file of the events; its folder is this process' own.
        states: what trials save; those that nobody needs any more are removed.
    """

    def __init__(
        self,
        studies: Iterable[Study],
        journal: JsonLines,
        states: TrialStore | None = None,
    ) -> None:
        self.studies = {study.spec.key: study for study in studies}
        self._journal, self._states = journal, states or TrialStore(None)
        self._any_report = False
        self._under_way = [c for c in self.studies.values() if not c.finished]

    @property
    def finished(self) -> bool:
        """Whether every study is."""
        self._under_way = [c for c in self._under_way if not c.finished]
        return not self._under_way

    def request_trial(self) -> TrialSpec | None:
        """The next trial, of the study furthest behind; None if none can start."""
        for study in sorted(self._under_way, key=_precedence):
            if run := study.request_trial():
                self._journal.append({"event": "start", **_describe(run)})
                return run
        return None  # some may have nothing left: `finished` looks

    def record(self, run: TrialSpec, reports: Sequence[Report], last: bool) -> bool:
        """Record what a trial reports; return whether its worker is done with it."""
        self._any_report = True
        said = [report.travelling() for report in reports]
        self._journal.append(
            {"event": "reports", **_key(run), "reports": said, "last": last}
        )
        study = self.studies[run.study]
        over = study.record(run.number, reports, last)
        if over and study.finished and study in self._under_way:
            self._under_way.remove(study)  # nothing is left that could change it
        for number in study.disused():
            self._states.drop(run.study, number)
        return over

    def on_worker_lost(self, run: TrialSpec, reason: str) -> None:
        """The worker of a trial died: the trial runs again, a few times.

        Raises:
            ValueError: it died again and again, and no other trial has ever reported.
        """
        end = self.studies[run.study].on_worker_lost(run.number, reason)
        lacks = "ModuleNotFoundError" in reason  # another attempt would end alike
        if (end or lacks) and not self._any_report:
            raise ValueError(
                f"workers must be able to run trials, but every one failed ({reason}): "
                f"for tasks and methods {REMEDY}"
            )
        if end:
            self.record(run, [end], last=True)

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
            elif event["event"] == "reports":
                study = self.studies[_study_of(event)]
                reports = [Report(**report) for report in event["reports"]]
                study.record(event["trial"], reports, event["last"])
        for study in self.studies.values():
            for number in [n for n in study.live if n in study.running]:
                study.rerun(number)
        self._under_way = [c for c in self.studies.values() if not c.finished]

    def _replay_start(self, event: Event) -> None:
        study = self.studies[_study_of(event)]
        if event["trial"] in study.running:  # the process had died, or only the worker
            study.rerun(event["trial"])
        run = study.request_trial()
        asked = {"event": "start", **_describe(run)} if run else None
        if asked != event:
            raise ValueError(
                f"study {study.spec.key} cannot be continued, for code or a library "
                f"has changed: its journal says {event}, its search now says {asked}; "
                "use another name"
            )

    def progress(self) -> list[StudyProgress]:
        """How far every study has come."""
        return [_progress_of(study) for study in self.studies.values()]


def _precedence(study: Study) -> tuple[int, float]:
    return len(study.running), study.spent / study.spec.budget


def _progress_of(study: Study) -> StudyProgress:
    share = min(1.0, study.spent / study.spec.budget)
    return StudyProgress(
        key=study.spec.key,
        share=1.0 if study.finished else share,
        best=study.best[0] if study.best else math.inf,
        running=len(study.running),
        failed=study.failed,
        error=study.error,
    )


def _key(run: TrialSpec) -> dict[str, Any]:
    return {"study": list(run.study), "trial": run.number}


def _describe(run: TrialSpec) -> dict[str, Any]:
    described = {**_key(run), "kind": run.kind, "hparams": run.hparams}
    if run.constant:
        described["constant"] = True
    if run.before:
        described["before"] = [list(segment) for segment in run.before]
    return described


def _study_of(event: Event) -> StudyKey:
    return StudyKey(*event["study"])
