"""All cells of a comparison: whose trial runs next, and how a killed one continues."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from raymeta.parcel import REMEDY
from raymeta.search.cells import CellName, Message, Run
from raymeta.search.courses import Course
from raymeta.search.journal import Event, Journal
from raymeta.search.states import States


class Standing(NamedTuple):
    """Where a cell stands, for progress.

    Attributes:
        share: of the budget spent; 1 when the cell is finished.
        best: lowest outer loss of a full run; inf before the first.
        running: trials in flight.
        failed: failed trials.
        error: the first exception that ended a trial, "" without one.
    """

    cell: CellName
    share: float
    best: float
    running: int
    failed: int
    error: str


class Ledger:
    """The courses of all cells, and the journal that they are written to.

    Args:
        courses: of the cells.
        journal: locked by this process.
        states: what trials save; those that nobody needs any more are removed.
    """

    def __init__(
        self,
        courses: Iterable[Course],
        journal: Journal,
        states: States | None = None,
    ) -> None:
        self.courses = {course.cell.name: course for course in courses}
        self._journal, self._states = journal, states or States(None)
        self._heard = False
        self._under_way = [c for c in self.courses.values() if not c.finished]

    @property
    def finished(self) -> bool:
        """Whether every cell is."""
        self._under_way = [c for c in self._under_way if not c.finished]
        return not self._under_way

    def ask(self) -> Run | None:
        """The next trial, of the cell furthest behind; None if none can start."""
        for course in sorted(self._under_way, key=_precedence):
            if run := course.ask():
                self._journal.write({"event": "start", **_describe(run)})
                return run
        return None  # some may have nothing left: `finished` looks

    def tell(self, run: Run, messages: Sequence[Message], last: bool) -> bool:
        """Hear what a trial says; return whether it is over."""
        self._heard = True
        said = [message._asdict() for message in messages]
        self._journal.write({"event": "tell", **_key(run), "said": said, "last": last})
        course = self.courses[run.cell]
        over = course.tell(run.number, messages, last)
        if over and course.finished and course in self._under_way:
            self._under_way.remove(course)  # nothing is left that could change it
        for number in course.disused():
            self._states.drop(run.cell, number)
        return over

    def lose(self, run: Run, reason: str) -> None:
        """The worker of a trial died: the trial runs again, a few times.

        Raises:
            ValueError: it died again and again, and no other trial has ever spoken.
        """
        end = self.courses[run.cell].lose(run.number, reason)
        lacks = "ModuleNotFoundError" in reason  # another attempt would end alike
        if (end or lacks) and not self._heard:
            raise ValueError(
                f"workers must be able to run trials, but every one failed ({reason}): "
                f"for tasks and methods {REMEDY}"
            )
        if end:
            self.tell(run, [end], last=True)

    def replay(self, events: Iterable[Event]) -> None:
        """Bring fresh courses to where a journal ends.

        What is in flight then will run again: a descent goes on where its tape was
        saved last, other trials from their start.

        Raises:
            ValueError: a course asks for something else than the journal recorded.
        """
        for event in events:
            if event["event"] == "start":
                self._replay_start(event)
            elif event["event"] == "tell":
                course = self.courses[_cell(event)]
                said = [Message(**message) for message in event["said"]]
                course.tell(event["trial"], said, event["last"])
        for course in self.courses.values():
            for number in list(course.live):
                course.cut(number)
        self._under_way = [c for c in self.courses.values() if not c.finished]

    def _replay_start(self, event: Event) -> None:
        course = self.courses[_cell(event)]
        if event["trial"] in course.live:  # the process had died, or only the worker
            course.cut(event["trial"])
        run = course.ask()
        asked = {"event": "start", **_describe(run)} if run else None
        if asked != event:
            raise ValueError(
                f"cell {course.cell.name} cannot be continued, for code or a library "
                f"has changed: its journal says {event}, its search now says {asked}; "
                "use another name"
            )

    def standings(self) -> list[Standing]:
        """Where every cell stands."""
        return [_standing(course) for course in self.courses.values()]


def _precedence(course: Course) -> tuple[int, float]:
    return len(course.live), course.spent / course.cell.budget


def _standing(course: Course) -> Standing:
    share = min(1.0, course.spent / course.cell.budget)
    return Standing(
        cell=course.cell.name,
        share=1.0 if course.finished else share,
        best=course.best[0] if course.best else math.inf,
        running=len(course.live),
        failed=course.failed,
        error=course.error,
    )


def _key(run: Run) -> dict[str, Any]:
    return {"cell": list(run.cell), "trial": run.number}


def _describe(run: Run) -> dict[str, Any]:
    described = {**_key(run), "kind": run.kind, "hparams": run.hparams}
    if run.constant:
        described["constant"] = True
    if run.before:
        described["before"] = [list(stretch) for stretch in run.before]
    return described


def _cell(event: Event) -> CellName:
    return CellName(*event["cell"])
