"""A cell under way: what it runs next, and what its trials have said.

Pure bookkeeping, without Ray's processes: the live run and the replay of a journal go
through the same `ask` and `tell`, so a resumed cell stands where the killed one stood.
"""

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from raymeta.search.cells import Cell, Message, Run, broken
from raymeta.search.domains import Coded, encode, to_tune
from raymeta.search.methods import BlackBoxMethod

#: Lost workers (a node gone, memory exhausted) after which a trial counts as failed.
ATTEMPTS = 3


class Course(ABC):
    """A cell under way.

    Attributes:
        cell: what it is about.
        messages: (trial number, message), in the order of arrival.
        live: the trials in flight, by number.
        best: lowest finite outer loss of a full run, and its hyperparameters.
    """

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self.messages: list[tuple[int, Message]] = []
        self.live: dict[int, Run] = {}
        self.best: tuple[float, Coded] | None = None
        self._redo: list[Run] = []
        self._spent: dict[int, float] = {}
        self._lost: Counter[int] = Counter()

    @property
    def spent(self) -> float:
        """Gradient evaluations charged so far."""
        return math.fsum(self._spent.values())

    @property
    def failed(self) -> int:
        """Failed trials so far."""
        return len({n for n, message in self.messages if message.kind == "failed"})

    @property
    def error(self) -> str:
        """The first exception that ended a trial, "" without one."""
        ends = (message for _, message in self.messages if message.kind == "failed")
        # A diverged trial is a failure of its hyperparameters, not of the code.
        reasons = (end.failure for end in ends if end.failure != _non_finite(end))
        return next(reasons, "")

    @property
    def finished(self) -> bool:
        """Whether nothing is in flight and nothing is left to run."""
        return not (self.live or self._redo or self._has_more())

    def ask(self) -> Run | None:
        """The next trial; None when there is none now."""
        run = self._redo.pop(0) if self._redo else self._next()
        if run is not None:
            self.live[run.number] = run
        return run

    def tell(
        self, number: int, messages: Sequence[Message], last: bool = False
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
            self.messages.append((number, message))
            if message.kind != "final":
                self._spent[number] = message.gradient_evals
            over = over or ends
        if over:
            del self.live[number]
        return over

    def cut(self, number: int) -> None:
        """A trial in flight is gone: forget what it said and run it again."""
        self._redo.append(self.live.pop(number))
        self._spent.pop(number, None)
        self.messages = [m for m in self.messages if m[0] != number]

    def lose(self, number: int, reason: str) -> Message | None:
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
        return broken(self.live[number], said[-1] if said else None, failure)

    def _improve(self, message: Message) -> None:
        finite = message.complete and math.isfinite(message.outer_loss)
        if finite and (self.best is None or message.outer_loss < self.best[0]):
            self.best = message.outer_loss, message.hparams

    @abstractmethod
    def _next(self) -> Run | None: ...

    @abstractmethod
    def _has_more(self) -> bool: ...

    @abstractmethod
    def _hear(self, run: Run, message: Message) -> tuple[Message, bool]:
        """The message as it is recorded, and whether the trial must end."""


class DescentCourse(Course):
    """One trial with the whole budget."""

    def __init__(self, cell: Cell) -> None:
        super().__init__(cell)
        self._asked = False

    def _next(self) -> Run | None:
        if self._asked:
            return None
        self._asked = True
        budget = self.cell.budget
        return Run(cell=self.cell.name, number=0, kind="descent", budget=budget)

    def _has_more(self) -> bool:
        return not self._asked

    def _hear(self, run: Run, message: Message) -> tuple[Message, bool]:
        if message.kind == "report" and not math.isfinite(message.outer_loss):
            # The descent itself decides what to do then; the row only says so.
            message = message._replace(failure=_non_finite(message))
        elif message.kind == "report":
            self._improve(message)
        return message, False

    def cut(self, number: int) -> None:
        """The trial is the cell: with it goes everything that was found."""
        super().cut(number)
        self.best = None


@dataclass(frozen=True)
class _Trial:
    """What a scheduler sees of a trial; Tune's own exists only in an experiment."""

    trial_id: str
    config: dict[str, Any]


class BlackBoxCourse(Course):
    """Trials that a searcher suggests, then one look at the test set.

    A trial starts only while what remains of the budget covers a full run; one that
    ends early gives the rest back.
    """

    def __init__(self, cell: Cell) -> None:
        super().__init__(cell)
        self._searcher, self._scheduler, self._slots = _inner(cell)
        self._trials: dict[int, _Trial] = {}
        self._exhausted = False
        self._final_asked = False

    def _next(self) -> Run | None:
        if len(self.live) >= self._slots:
            return None
        if self._may_search() and (run := self._search()):
            return run
        if self.live or self.best is None or self._final_asked:
            return None
        self._final_asked = True
        recorded, hparams = self.best
        return Run(
            cell=self.cell.name,
            number=len(self._trials),
            kind="final",
            hparams=hparams,
            recorded=recorded,
        )

    def _has_more(self) -> bool:
        return self._may_search() or (self.best is not None and not self._final_asked)

    def _may_search(self) -> bool:
        full_run = self.cell.full_run
        reserved = sum(full_run - self._spent.get(n, 0.0) for n in self.live)
        remaining = self.cell.budget - self.spent - reserved
        # Sums of thirds: a budget of exactly n runs must hold n runs.
        return not self._exhausted and remaining >= full_run * (1 - 1e-9)

    def _search(self) -> Run | None:
        number = len(self._trials)
        flat = self._searcher.suggest(str(number))
        if flat is None or flat == Searcher.FINISHED:
            self._exhausted = flat is not None or not self.live
            return None
        self._trials[number] = _Trial(str(number), flat)
        self._scheduler.on_trial_add(None, self._trials[number])
        hparams = encode(self.cell.task.space, flat)
        return Run(cell=self.cell.name, number=number, kind="search", hparams=hparams)

    def _hear(self, run: Run, message: Message) -> tuple[Message, bool]:
        if run.kind == "final":
            return message, True
        if message.kind == "failed":
            # What it had spent when it raised is not known: the most it can be.
            message = message._replace(gradient_evals=self.cell.full_run)
            return self._fail(run, message), True
        if not math.isfinite(message.outer_loss):
            failure = _non_finite(message)
            return self._fail(run, broken(run, message, failure)), True
        self._improve(message)
        return message, self._judge(run, message)

    def _judge(self, run: Run, message: Message) -> bool:
        """Show a result to the scheduler and the searcher; whether the trial ends."""
        trial = self._trials[run.number]
        result = {
            "outer_loss": message.outer_loss,
            "inner_steps": message.inner_steps,
            "gradient_evals": message.gradient_evals,
            "training_iteration": message.outer_step,
            "config": trial.config,
        }
        decision = self._scheduler.on_trial_result(None, trial, result)
        if decision not in (TrialScheduler.CONTINUE, TrialScheduler.STOP):
            raise ValueError(
                f"the scheduler of method {self.cell.method.name!r} may continue or "
                f"stop a trial, but it decided to {decision}: use another scheduler"
            )
        if message.complete or decision == TrialScheduler.STOP:
            self._scheduler.on_trial_complete(None, trial, result)
            self._searcher.on_trial_complete(trial.trial_id, result)
            return True
        self._searcher.on_trial_result(trial.trial_id, result)
        return False

    def _fail(self, run: Run, message: Message) -> Message:
        trial = self._trials[run.number]
        self._scheduler.on_trial_remove(None, trial)
        self._searcher.on_trial_complete(trial.trial_id, None, error=True)
        return message


def course_of(cell: Cell) -> Course:
    """The start of a cell.

    Raises:
        ValueError: a black-box cell on a space without bounds; a method whose searcher
            or scheduler is not left to the comparison.
    """
    return BlackBoxCourse(cell) if cell.is_black_box else DescentCourse(cell)


def _inner(cell: Cell) -> tuple[Searcher, Any, int]:
    """The method's searcher and scheduler, set up as Tune would do it."""
    method = cast(BlackBoxMethod, cell.method)
    config = method.tune_config(cell.task, cell.seed)
    searcher, scheduler = config.search_alg, config.scheduler or FIFOScheduler()
    space = to_tune(cell.task.space)
    if not isinstance(searcher, Searcher):
        raise ValueError(
            f"method {method.name!r} needs a ray.tune.search.Searcher as search_alg, "
            f"but got {type(searcher).__name__}"
        )
    taken = {
        "searcher": searcher.set_search_properties(config.metric, config.mode, space),
        "scheduler": scheduler.set_search_properties(config.metric, config.mode),
    }
    for part, accepted in taken.items():
        if not accepted:
            raise ValueError(
                f"method {method.name!r} needs a {part} that takes space, metric and "
                "mode from the comparison, but it has its own: leave them out of its "
                "constructor"
            )
    return searcher, scheduler, config.max_concurrent_trials or 1


def _non_finite(message: Message) -> str:
    return f"non-finite outer loss at inner step {message.inner_steps}"
