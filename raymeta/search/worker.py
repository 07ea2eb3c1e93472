"""What runs on a worker: one trial, from its `Run` to its last message."""

import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import torch
from ray import tune

from raymeta import loop
from raymeta.loop import Report
from raymeta.problem import BilevelProblem
from raymeta.search.cells import Message, Run, broken
from raymeta.search.domains import decode, encode
from raymeta.search.methods import BlackBoxMethod, HypergradientMethod, Method
from raymeta.space import Space
from raymeta.tasks.base import Task

#: A descent may report every few milliseconds; its messages travel together.
POST_EVERY_S = 0.5

#: Sampled problems that a worker keeps; sampling reads data and builds networks.
CACHED_PROBLEMS = 8

#: Characters of an exception that the frame keeps.
MAX_REASON = 300

_problems: dict[tuple[str, int], BilevelProblem] = {}

T = TypeVar("T")


def run_trial(
    config: dict[str, Any], tasks: Mapping[str, Task], methods: Mapping[str, Method]
) -> None:
    """The trainable: run a trial and post its messages."""
    torch.set_num_threads(1)  # of this thread; each trial runs in a new one
    run: Run = config["run"]
    messages = messages_of(run, tasks[run.cell.task], methods[run.cell.method])
    unsent: list[Message] = []
    posted = time.monotonic()
    for message in messages:
        unsent.append(message)
        # A search must hear at once whether its scheduler stops it.
        if run.kind == "search" or time.monotonic() - posted > POST_EVERY_S:
            tune.report({"messages": unsent, "last": False})
            unsent, posted = [], time.monotonic()
    tune.report({"messages": unsent, "last": True})


def messages_of(run: Run, task: Task, method: Method) -> Iterator[Message]:
    """Everything that a trial says; an exception is its last message."""
    trial = _Trial(run, task, method)
    says = {"search": trial.search, "final": trial.final, "descent": trial.descent}
    try:
        yield from says[run.kind]()
    except Exception as error:
        yield trial.broken(error)


class _Watch:
    """Seconds spent in training and evaluation, not in waiting for the driver."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def over(self, items: Iterator[T]) -> Iterator[T]:
        """The items; producing them is timed."""
        while True:
            start = time.perf_counter()
            try:
                item = next(items)
            except StopIteration:
                return
            finally:
                self.seconds += time.perf_counter() - start
            yield item


@dataclass
class _Trial:
    """A trial on its worker.

    Attributes:
        last: what it said last.
    """

    run: Run
    task: Task
    method: Method
    watch: _Watch = field(default_factory=_Watch)
    last: Message | None = None

    def search(self) -> Iterator[Message]:
        """Train at the given hyperparameters."""
        method = cast(BlackBoxMethod, self.method)
        for report in self._evaluate(method.rungs(self.task)):
            yield self._say(report)

    def final(self) -> Iterator[Message]:
        """Train again at the best hyperparameters and look at the test set."""
        (report,) = self._evaluate((self.task.horizon,))
        found, recorded = report.outer_loss, self.run.recorded
        differs = f"retrained outer loss {found} differs from the recorded {recorded}"
        yield self._look(report, "" if found == recorded else differs)

    def descent(self) -> Iterator[Message]:
        """Let the method descend, then look at the test set where it was best."""
        method = cast(HypergradientMethod, self.method)
        seed, budget = self.run.cell.seed, self.run.budget
        reports = method.reports(self.task, self._problem(), seed, budget)
        best: Report | None = None
        try:
            for report in self.watch.over(reports):
                yield self._say(report)
                if loop.better(report, best):
                    best = report
        except Exception as error:
            # What was found before still counts, and is still looked at.
            yield self.broken(error)
        if best is not None:
            yield self._look(best)

    def broken(self, error: Exception) -> Message:
        """What to say when an exception ends the trial."""
        end = broken(self.run, self.last, _reason(error))
        return end._replace(wall_s=self.watch.seconds)

    def _evaluate(self, rungs: tuple[int, ...]) -> Iterator[Report]:
        space = self.task.space
        hparams = space.unflatten(decode(space, self.run.hparams or {}))
        return self.watch.over(loop.evaluate(self._problem(), space, hparams, rungs))

    def _problem(self) -> BilevelProblem:
        key = self.task.name, self.run.cell.seed
        if key not in _problems:
            while len(_problems) >= CACHED_PROBLEMS:
                del _problems[next(iter(_problems))]  # the oldest
            problem = self.task.sample(self.run.cell.seed)
            _warm_up(problem, self.task.space)
            _problems[key] = problem
        return _problems[key]

    def _say(self, report: Report) -> Message:
        # A searcher's values as it gave them: the tensors may be of lower precision.
        hparams = self.run.hparams or encode(self.task.space, report.hparams)
        self.last = Message(
            kind="report",
            outer_step=int(report.outer_step),
            inner_steps=int(report.inner_steps),
            gradient_evals=float(report.gradient_evals),
            wall_s=self.watch.seconds,
            outer_loss=float(report.outer_loss),
            complete=bool(report.complete),
            hparams=hparams,
        )
        return self.last

    def _look(self, report: Report, failure: str = "") -> Message:
        """The one look at the test set, at the end of a full run."""
        metrics: dict[str, float] = {}
        try:
            metrics = _test(self._problem(), self.task.space, report)
        except Exception as error:
            failure = "; ".join(filter(None, [failure, _reason(error)]))
        return self._say(report)._replace(
            kind="final", failure=failure, metrics=metrics
        )


def _warm_up(problem: BilevelProblem, space: Space) -> None:
    """One step: a process' first imports much, which is no trial's own time."""
    hparams = space.initial()
    with suppress(Exception):  # other hyperparameters may do better
        problem.step(problem.init(hparams), hparams, problem.batch(0))


def _test(problem: BilevelProblem, space: Space, report: Report) -> dict[str, float]:
    """Metrics by column name."""
    if problem.metrics is None:
        return {}
    found = problem.metrics(report.state, space.unflatten(report.hparams))
    return {
        name if name.startswith("test_") else f"test_{name}": float(value)
        for name, value in found.items()
    }


def _reason(error: Exception) -> str:
    """Class and message of an exception, on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:MAX_REASON]
