"""A study under way: what it runs next, and what its trials have reported.

Pure bookkeeping, without Ray's processes: the live run and the replay of a journal go
through the same `request_trial` and `record`, so a resumed study stands where the
killed one stood.
"""

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from raymeta.outer.report import Report, non_finite
from raymeta.search.spec import StudySpec, TrialSpec
from raymeta.search.study.report_columns import ReportColumns
from raymeta.search.study.sums import Sums
from raymeta.space import Point

#: Lost workers (a node gone, memory exhausted) after which a trial counts as failed; of
#: a descent, those since it came further than ever.
ATTEMPTS = 3


class Done(NamedTuple):
    """What a trial had reported and spent when it was over, or paused, see `Report`."""

    outer_step: int
    gradient_evals: float
    wall_s: float


class Study(ABC):
    """A study under way: one method on one task under one seed.

    Attributes:
        spec: what is studied.
        reports: (trial number, report), as they were applied.
        live: the trials that were asked for and are not over, by number, in order.
        running: those of them that a worker has.
        best: lowest finite outer loss of a full run, and its hyperparameters.
    """

    def __init__(self, spec: StudySpec) -> None:
        self.spec = spec
        self.reports = ReportColumns()
        self.live: dict[int, TrialSpec] = {}
        self.running: set[int] = set()
        self.best: tuple[float, Point] | None = None
        self._in_order = False
        self._redo: list[int] = []
        self._said: dict[int, tuple[Sequence[Report], bool]] = {}  # and not yet applied
        self._spent = Sums()
        self._done: dict[int, Done] = {}  # of those that were to go on
        self._failed: set[int] = set()
        self._raised: dict[int, str] = {}  # why, of those that an exception ended
        self._lost: Counter[int] = Counter()
        self._reached = 0.0  # the most that its descent had spent when a worker died
        self._moved: set[int] = set()  # trials that began, spent or ended since

    @property
    @abstractmethod
    def most_in_flight(self) -> tuple[int, str]:
        """How many of its trials can be in flight, and what limits them."""

    @property
    def heard(self) -> ReportColumns:
        """The reports applied, then those whose turn has not come."""
        waiting = [
            (number, _after(self._done.get(number), self._as_recorded(run, report)))
            for number, run in self.live.items()
            for report in self._said.get(number, ((), False))[0]
        ]
        return self.reports.followed_by(waiting) if waiting else self.reports

    @property
    def spent(self) -> float:
        """Gradient evaluations charged so far."""
        return self._spent.total

    @property
    def failed(self) -> int:
        """Failed trials so far."""
        return len(self._failed)

    @property
    def error(self) -> str:
        """The first exception that ended a trial, "" without one."""
        return next(iter(self._raised.values()), "")

    @property
    def finished(self) -> bool:
        """Whether nothing is in flight and nothing is left to run."""
        return not (self.live or self._has_more())

    def request_trial(self) -> TrialSpec | None:
        """The next trial; None when there is none now."""
        run = self.live[self._redo.pop(0)] if self._redo else self._next()
        if run is not None:
            self.live[run.number] = run
            self.running.add(run.number)
            self._moved.add(run.number)
        return run

    def record(
        self, number: int, reports: Sequence[Report], last: bool = False
    ) -> bool:
        """Record what a trial reports.

        Where no suggestion depends on what is in flight, it is applied when all trials
        that were asked for before are over: so the study stands where it would with one
        trial in flight, however many there are and whichever comes first.

        Args:
            number: the trial, which a worker has.
            reports: what it reports, in order.
            last: whether the trial has ended by itself.

        Returns:
            Whether its worker is done with it. One whose turn has not come is: if it
            may go on then, it is asked for again, and starts where it stands.
        """
        if self._in_order and number != next(iter(self.live)):
            self._said[number] = reports, last
            self.running.remove(number)
            return True
        over = self._apply(number, reports, last)
        if over:
            self.running.remove(number)
            self._catch_up()
        return over

    def _catch_up(self) -> None:
        """Apply what trials have said whose turn has come."""
        while (number := next(iter(self.live), -1)) in self._said:
            reports, last = self._said.pop(number)
            if not self._apply(number, reports, last):
                self._done[number] = _done(self.reports[-1][1])
                self.live[number] = self._going_on(number)
                self._moved.add(number)
                self._redo.append(number)

    def _apply(self, number: int, reports: Sequence[Report], last: bool) -> bool:
        """Let the study know what a trial reports; return whether it is over."""
        over = last
        self._moved.add(number)
        for report in reports:
            report = self._as_recorded(self.live[number], report)
            ends = self._on_report(self.live[number], report)
            report = _after(self._done.get(number), report)
            self.reports.append((number, report))
            if report.kind == "failed":
                self._on_failure(number, report)
            if report.kind != "final":
                self._spent.put(number, report.gradient_evals)
            over = over or ends
        if over:
            del self.live[number]
            if not self._may_go_on(number):
                self._spent.settle(number)
                self._done.pop(number, None)
            elif reports:
                self._done[number] = _done(report)
        return over

    def _on_failure(self, number: int, end: Report) -> None:
        self._failed.add(number)
        # A diverged trial is a failure of its hyperparameters, not of the code.
        if end.failure != non_finite(end):
            self._raised[number] = end.failure

    def disused(self) -> list[int]:
        """Trials of which nothing is needed any more, each named once."""
        return []

    def rerun(self, number: int) -> None:
        """A trial in flight is gone: forget what it reported and run it again.

        What it reported before it was paused last is kept.
        """
        self.running.remove(number)
        self._redo.append(number)
        self._moved.add(number)
        done = self._done.get(number)
        self._spent.drop(number)
        if done is not None:
            self._spent.put(number, done.gradient_evals)
        # What raises at once reports a failure at outer step 0.
        self.reports.drop(number, after=-1 if done is None else done.outer_step)
        self._failed.discard(number)
        self._raised.pop(number, None)

    def on_worker_lost(self, number: int, reason: str) -> Report | None:
        """The worker of a trial has died.

        Returns:
            None when the trial will run again; after `ATTEMPTS` its end, to record.
        """
        spent = self._spent.get(number, 0.0)
        if self.live[number].kind == "descent" and spent > self._reached:
            self._reached = spent  # its log goes on: only deaths at one place count
            del self._lost[number]
        self._lost[number] += 1
        if self._lost[number] < ATTEMPTS:
            self.rerun(number)
            return None
        said = self.reports.of(number)
        failure = f"its worker died {ATTEMPTS} times: {reason}"
        last = said[-1] if said else None
        if number in self._done:
            last = None  # its numbers are not those of the segment
        return self.live[number].broken(last, failure)

    def _spent_since_start(self, number: int) -> float:
        """What a trial in flight has spent since it started or went on."""
        done = self._done.get(number)
        before = 0.0 if done is None else done.gradient_evals
        return self._spent.get(number, 0.0) - before

    def _improve(self, report: Report) -> bool:
        """Keep the best; return whether this is it."""
        least = math.inf if self.best is None else self.best[0]
        if report.scores and (report.returned or report.outer_loss < least):
            self.best = report.outer_loss, report.hparams
            return True
        return False

    @abstractmethod
    def _next(self) -> TrialSpec | None: ...

    @abstractmethod
    def _has_more(self) -> bool: ...

    def _may_go_on(self, number: int) -> bool:
        """Whether a trial that is over may be asked for again."""
        return False

    def _going_on(self, number: int) -> TrialSpec:
        """The rest of a trial that may go on, and has no worker any more."""
        raise NotImplementedError

    def _as_recorded(self, run: TrialSpec, report: Report) -> Report:
        """The report as the study has it."""
        return report

    @abstractmethod
    def _on_report(self, run: TrialSpec, report: Report) -> bool:
        """Take a report, as it is recorded; return whether the trial must end."""


class DescentStudy(Study):
    """One trial with the whole budget."""

    def __init__(self, spec: StudySpec) -> None:
        super().__init__(spec)
        self._asked = self._dropped = False

    @property
    def most_in_flight(self) -> tuple[int, str]:
        """Its one trial."""
        return 1, "a descent"

    def disused(self) -> list[int]:
        """The trial, once it is over."""
        if self._dropped or not self.finished:
            return []
        self._dropped = True
        return [0]

    def _next(self) -> TrialSpec | None:
        if self._asked:
            return None
        self._asked = True
        budget = self.spec.budget
        return TrialSpec(study=self.spec.key, number=0, kind="descent", budget=budget)

    def _has_more(self) -> bool:
        return not self._asked

    def _on_report(self, run: TrialSpec, report: Report) -> bool:
        self._improve(report)
        return False

    def rerun(self, number: int) -> None:
        """The trial is the study: with it goes everything that was found."""
        super().rerun(number)
        self.best = None


def _done(report: Report) -> Done:
    return Done(report.outer_step, report.gradient_evals, report.wall_s)


def _after(done: Done | None, report: Report) -> Report:
    """A report, with what the trial had reported and spent before this segment."""
    if done is None or report.kind == "final":
        return report
    return report._replace(
        outer_step=report.outer_step + done.outer_step,
        gradient_evals=report.gradient_evals + done.gradient_evals,
        wall_s=report.wall_s + done.wall_s,
    )
