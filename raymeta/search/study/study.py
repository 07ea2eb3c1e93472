"""A cell under way: what it runs next, and what its trials have said.

Pure bookkeeping, without Ray's processes: the live run and the replay of a journal go
through the same `ask` and `tell`, so a resumed cell stands where the killed one stood.
"""

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence

from raymeta.search.spec import StudySpec, TrialReport, TrialSpec, broken
from raymeta.search.study.sums import Sums
from raymeta.search.tune.space import Coded

#: Lost workers (a node gone, memory exhausted) after which a trial counts as failed; of
#: a descent, those since it came further than ever.
ATTEMPTS = 3


class Study(ABC):
    """A cell under way.

    Attributes:
        cell: what it is about.
        messages: (trial number, message), in the order of arrival.
        live: the trials in flight, by number.
        best: lowest finite outer loss of a full run, and its hyperparameters.
    """

    def __init__(self, cell: StudySpec) -> None:
        self.cell = cell
        self.messages: list[tuple[int, TrialReport]] = []
        self.live: dict[int, TrialSpec] = {}
        self.best: tuple[float, Coded] | None = None
        self._redo: list[TrialSpec] = []
        self._spent = Sums()
        self._done: dict[int, TrialReport] = {}
        self._lost: Counter[int] = Counter()

    @property
    def spent(self) -> float:
        """Gradient evaluations charged so far."""
        return self._spent.total

    @property
    def failed(self) -> int:
        """Failed trials so far."""
        return len({n for n, message in self.messages if message.kind == "failed"})

    @property
    def error(self) -> str:
        """The first exception that ended a trial, "" without one."""
        ends = (message for _, message in self.messages if message.kind == "failed")
        # A diverged trial is a failure of its hyperparameters, not of the code.
        reasons = (end.failure for end in ends if end.failure != non_finite(end))
        return next(reasons, "")

    @property
    def finished(self) -> bool:
        """Whether nothing is in flight and nothing is left to run."""
        return not (self.live or self._redo or self._has_more())

    def ask(self) -> TrialSpec | None:
        """The next trial; None when there is none now."""
        run = self._redo.pop(0) if self._redo else self._next()
        if run is not None:
            self.live[run.number] = run
        return run

    def tell(
        self, number: int, messages: Sequence[TrialReport], last: bool = False
    ) -> bool:
        """Hear what a trial says.

        Args:
            number: of the trial, which is in flight.
            messages: in order.
            last: whether the trial has ended by itself.

        Returns:
            Whether the trial is over.
        """
        over = last
        for message in messages:
            message, ends = self._hear(self.live[number], message)
            message = _after(self._done.get(number), message)
            self.messages.append((number, message))
            if message.kind != "final":
                self._spent.put(number, message.gradient_evals)
            over = over or ends
        if over:
            del self.live[number]
            if messages:
                self._done[number] = message
        return over

    def disused(self) -> list[int]:
        """Trials that nobody needs anything of any more, each told once."""
        return []

    def cut(self, number: int) -> None:
        """A trial in flight is gone: forget what it said and run it again.

        What it said before it was paused last is kept.
        """
        self._redo.append(self.live.pop(number))
        done = self._done.get(number)
        self._spent.drop(number)
        if done is not None:
            self._spent.put(number, done.gradient_evals)
        kept = 0 if done is None else done.outer_step
        self.messages = [
            (n, message)
            for n, message in self.messages
            if n != number or message.outer_step <= kept
        ]

    def lose(self, number: int, reason: str) -> TrialReport | None:
        """The worker of a trial has died.

        Returns:
            None when the trial will run again; after `ATTEMPTS` its end, to be told.
        """
        self._lost[number] += 1
        if self._lost[number] < ATTEMPTS:
            self.cut(number)
            return None
        said = [message for n, message in self.messages if n == number]
        failure = f"its worker died {ATTEMPTS} times: {reason}"
        last = said[-1] if said else None
        if number in self._done:
            last = None  # its numbers are not those of the segment
        return broken(self.live[number], last, failure)

    def _spent_since_start(self, number: int) -> float:
        """What a trial in flight has spent since it started or went on."""
        done = self._done.get(number)
        before = 0.0 if done is None else done.gradient_evals
        return self._spent.get(number, 0.0) - before

    def _improve(self, message: TrialReport) -> bool:
        """Keep the best; return whether this is it."""
        finite = message.complete and math.isfinite(message.outer_loss)
        if finite and (self.best is None or message.outer_loss < self.best[0]):
            self.best = message.outer_loss, message.hparams
            return True
        return False

    @abstractmethod
    def _next(self) -> TrialSpec | None: ...

    @abstractmethod
    def _has_more(self) -> bool: ...

    @abstractmethod
    def _hear(self, run: TrialSpec, message: TrialReport) -> tuple[TrialReport, bool]:
        """The message as it is recorded, and whether the trial must end."""


class DescentStudy(Study):
    """One trial with the whole budget."""

    def __init__(self, cell: StudySpec) -> None:
        super().__init__(cell)
        self._asked = self._dropped = False
        self._reached = 0.0

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
        budget = self.cell.budget
        return TrialSpec(cell=self.cell.name, number=0, kind="descent", budget=budget)

    def _has_more(self) -> bool:
        return not self._asked

    def _hear(self, run: TrialSpec, message: TrialReport) -> tuple[TrialReport, bool]:
        if message.kind == "report" and not math.isfinite(message.outer_loss):
            # The descent itself decides what to do then; the row only says so.
            message = message._replace(failure=non_finite(message))
        elif message.kind == "report":
            self._improve(message)
        return message, False

    def lose(self, number: int, reason: str) -> TrialReport | None:
        """The worker has died; its log goes on, so only deaths at one place count."""
        reached = self._spent.get(number, 0.0)
        if reached > self._reached:
            self._reached = reached
            self._lost.clear()
        return super().lose(number, reason)

    def cut(self, number: int) -> None:
        """The trial is the cell: with it goes everything that was found."""
        super().cut(number)
        self.best = None


def _after(done: TrialReport | None, message: TrialReport) -> TrialReport:
    """A message, with what the trial had reported and spent before this segment."""
    if done is None or message.kind == "final":
        return message
    return message._replace(
        outer_step=message.outer_step + done.outer_step,
        gradient_evals=message.gradient_evals + done.gradient_evals,
        wall_s=message.wall_s + done.wall_s,
    )


def non_finite(message: TrialReport) -> str:
    """How a message without a finite outer loss is explained."""
    return f"non-finite outer loss at inner step {message.inner_steps}"
