"""Coordinator of all studies of a comparison: whose trial is next, what is replayed."""

import math
from bisect import bisect_left, insort
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple, overload

from raymeta.outer.report import Report, non_finite
from raymeta.results.jsonlines import JsonLines
from raymeta.runtime.serialization import REMEDY
from raymeta.search.spec import StudyKey, TrialSpec
from raymeta.search.study.study import Study
from raymeta.search.worker.trial_store import TrialStore

#: A line of the journal: a trial that started, or what one said.
Event = dict[str, Any]

#: Where a study stands in the queue: trials that run, share that is spent, its number.
_Place = tuple[int, float, int]


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

    Attributes:
        first_error: of what raised first, the trial and why; "" while none has.
    """

    def __init__(
        self,
        studies: Iterable[Study],
        journal: JsonLines,
        states: TrialStore | None = None,
    ) -> None:
        self.studies = {study.spec.key: study for study in studies}
        self._journal, self._states = journal, states or TrialStore(None)
        self._any_report, self.first_error = False, ""
        self._begin()

    def _begin(self) -> None:
        """Look at every study once; from here on at those that change."""
        left = [key for key, study in self.studies.items() if not study.finished]
        self._under_way = dict.fromkeys(left)
        self._places: dict[StudyKey, _Place] = {}
        self._queue: list[tuple[_Place, StudyKey]] = []
        self._number = {key: number for number, key in enumerate(self.studies)}
        for key in left:
            self._enqueue(key)

    @property
    def finished(self) -> bool:
        """Whether every study is."""
        for key in [key for key in self._under_way if self.studies[key].finished]:
            del self._under_way[key]
        return not self._under_way

    def request_trial(self) -> TrialSpec | None:
        """The next trial, of the study furthest behind; None if none can start."""
        while self._queue:
            _, key = self._queue.pop(0)
            del self._places[key]
            if run := self.studies[key].request_trial():
                self._journal.append(described(run))
                self._enqueue(key)
                return run
            # It has nothing to ask for until one of its trials says something.
        return None  # some may have nothing left: `finished` looks

    def _enqueue(self, key: StudyKey) -> None:
        """Put a study that may ask for a trial where it belongs in the queue."""
        if (place := self._places.get(key)) is not None:
            del self._queue[bisect_left(self._queue, (place, key))]
        study = self.studies[key]
        share = study.spent / study.spec.budget
        self._places[key] = place = (len(study.running), share, self._number[key])
        insort(self._queue, (place, key))

    def record(self, run: TrialSpec, reports: Sequence[Report], last: bool) -> bool:
        """Record what a trial reports; return whether its worker is done with it."""
        self._any_report = True
        said = [report.travelling() for report in reports]
        self._journal.append(
            {"event": "reports", **_key(run), "reports": said, "last": last}
        )
        failed = (report for report in reports if report.kind == "failed")
        raised = [end.failure for end in failed if end.failure != non_finite(end)]
        if raised and not self.first_error:
            self.first_error = f"{run.study}, trial {run.number}: {raised[0]}"
        study = self.studies[run.study]
        over = study.record(run.number, reports, last)
        self._on_change(run.study, look=over)
        for number in study.disused():
            self._states.drop(run.study, number)
        return over

    def _on_change(self, key: StudyKey, *, look: bool) -> None:
        """A study may be finished, or ask for a trial."""
        if look and self.studies[key].finished:
            self._under_way.pop(key, None)  # nothing is left that could change it
        if key in self._under_way:
            self._enqueue(key)
        elif (place := self._places.pop(key, None)) is not None:
            del self._queue[bisect_left(self._queue, (place, key))]

    def on_worker_lost(self, run: TrialSpec, reason: str) -> None:
        """The worker of a trial died: the trial runs again, a few times.

        Raises:
            ValueError: it died again and again, and no other trial has ever reported.
        """
        end = self.studies[run.study].on_worker_lost(run.number, reason)
        self._on_change(run.study, look=False)
        lacks = "ModuleNotFoundError" in reason  # another attempt would end alike
        if (end or lacks) and not self._any_report:
            raise ValueError(
                f"workers must be able to run trials, but every one failed ({reason}): "
                f"for tasks and methods {REMEDY}"
            )
        if end:
            self.record(run, [end], last=True)

    def replay(self, events: Iterable[Event], grown: Collection[StudyKey] = ()) -> None:
        """Bring fresh studies to where a journal ends.

        What is in flight then will run again: a descent goes on where its log was
        saved last, other trials from their start. Events of other studies stay unread.

        Args:
            events: of the journal.
            grown: studies whose budget is larger than it was. What they did counts as
                far as they would do the same now; the journal says how far, and the
                rest is done anew: of a descent, all, for it divides its budget.

        Raises:
            ValueError: a study asks for something else than the journal recorded.
        """
        kept = dict.fromkeys(grown, 0)
        over = {key for key in grown if not self.studies[key].spec.searches}
        for event in standing(events):
            key = _study_of(event)
            if (study := self.studies.get(key)) is None or key in over:
                continue
            if event["event"] == "start":
                asked = described(requested(study, event))
                if asked != event and key in kept:
                    over.add(key)
                    continue
                if asked != event:
                    raise ValueError(
                        f"study {key} cannot be continued, for code or a library has "
                        f"changed: its journal says {event}, its search now says "
                        f"{asked}; use another name"
                    )
            elif event["event"] == "reports":
                reports = [Report(**report) for report in event["reports"]]
                study.record(event["trial"], reports, event["last"])
            if key in kept:
                kept[key] += 1
        for key, count in kept.items():
            self._journal.append({"event": "grow", "study": list(key), "kept": count})
            if not self.studies[key].spec.searches:
                self._states.drop(key, 0)
        for study in self.studies.values():
            for number in [n for n in study.live if n in study.running]:
                study.rerun(number)
        self._begin()

    def progress(self) -> list[StudyProgress]:
        """How far every study has come."""
        return [_progress_of(study) for study in self.studies.values()]


def requested(study: Study, event: Event) -> TrialSpec | None:
    """What a study asks for where its journal says that a trial started."""
    if event["trial"] in study.running:  # the process had died, or only the worker
        study.rerun(event["trial"])
    return study.request_trial()


def standing(events: Iterable[Event]) -> list[Event]:
    """Events of a journal that count: where a study grew, some of it was done anew."""
    found: list[Event] = []
    places: dict[StudyKey, list[int]] = {}  # of the events of each study
    dead: set[int] = set()
    for event in events:
        if "study" not in event:
            continue
        own = places.setdefault(_study_of(event), [])
        if event["event"] == "grow":
            dead.update(own[event["kept"] :])
            del own[event["kept"] :]
            continue
        own.append(len(found))
        found.append(event)
    return [event for place, event in enumerate(found) if place not in dead]


def evidence_in(events: Iterable[Event]) -> dict[str, dict[str, dict[str, str]]]:
    """The first digests that trials of a task and seed have found, by those."""
    found: dict[str, dict[str, dict[str, str]]] = {}
    for event in events:
        if event["event"] != "reports":
            continue
        key = _study_of(event)
        for report in event["reports"]:
            if report["evidence"]:
                found.setdefault(key.task, {}).setdefault(
                    str(key.seed), report["evidence"]
                )
    return found


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


@overload
def described(run: TrialSpec) -> Event: ...
@overload
def described(run: TrialSpec | None) -> Event | None: ...


def described(run: TrialSpec | None) -> Event | None:
    """The line of a journal that says that a trial started."""
    if run is None:
        return None
    event = {"event": "start", **_key(run), "kind": run.kind, "hparams": run.hparams}
    if run.constant:
        event["constant"] = True
    if run.known:
        event["budget"] = run.budget
    if run.before:
        event["before"] = [list(segment) for segment in run.before]
    return event


def _study_of(event: Event) -> StudyKey:
    return StudyKey(*event["study"])
