"""Trial runner on a worker: one trial, from its `TrialSpec` to its last report."""

import math
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self, cast

import torch
from ray import tune

from raymeta.distributed.agreement import LostRank
from raymeta.outer.evaluator import Evaluator
from raymeta.outer.parallel import DataParallelTask, require_same_report
from raymeta.outer.report import Report, held_out, non_finite, plain_run
from raymeta.outer.result import better
from raymeta.problem import BilevelProblem
from raymeta.results.schema import TRUST
from raymeta.runtime.orphans import end_with_parent
from raymeta.runtime.serialization import Payload
from raymeta.search.fairness import fingerprint
from raymeta.search.methods import (
    DescentMethod,
    Method,
    SearchMethod,
)
from raymeta.search.methods.hybrid import HybridMethod
from raymeta.search.methods.random import Random
from raymeta.search.spec import Segment, TrialSpec
from raymeta.search.worker.metrics import TrialMetrics
from raymeta.search.worker.replay import (
    ReplayingEvaluator,
    ReplayMismatch,
    signature_of,
)
from raymeta.search.worker.shared_store import SharedStore
from raymeta.search.worker.stopwatch import Stopwatch
from raymeta.search.worker.trial_ranks import SharedEvaluator, TrialRanks, on_ranks
from raymeta.search.worker.trial_store import TrialStore
from raymeta.space import Point
from raymeta.tasks.base import Task, choice_key, sample_problem
from raymeta.types import Hparams, State

#: A descent may report every few milliseconds; its reports travel together.
POST_EVERY_S = 0.5

#: Sampled problems that a worker keeps; sampling reads data and builds networks.
CACHED_PROBLEMS = 8

#: Training at constant hyperparameters to the horizon.
PLAIN = Random()

#: Characters of an exception that the frame keeps.
MAX_REASON = 300

_problems: dict[tuple[str, int, tuple[int, ...]], BilevelProblem] = {}
_fingerprints: dict[tuple[str, int], dict[str, str]] = {}


def run_trial(
    config: dict[str, Any],
    payload: Payload,
    states: TrialStore,
    flops: Mapping[str, float],
    workers: int = 1,
    bundle: Mapping[str, float] = {},
) -> None:
    """The trainable: run a trial and post its reports, the last one in plain numbers.

    Args:
        config: holds the `TrialSpec` as "run".
        payload: tasks and methods by name.
        states: keeps the training states of all trials.
        flops: operations of one gradient evaluation by task.
        workers: processes that compute a trial together.
        bundle: what each of them holds, by name.
    """
    end_with_parent()
    torch.set_num_threads(1)  # of this thread; each trial runs in a new one
    run: TrialSpec = config["run"]
    given = run, payload, states
    reports = on_ranks(workers, bundle, _on_rank, *given)
    if workers == 1:
        reports = _on_rank(None, *given)
    unsent: list[Report] = []
    metrics, plain = TrialMetrics(flops[run.study.task]), {}
    posted = time.monotonic()
    with closing(reports):
        for report in reports:
            unsent.append(report)
            plain = metrics.of(report)
            # A search must know at once whether its scheduler stops it.
            if run.kind == "search" or time.monotonic() - posted > POST_EVERY_S:
                tune.report({**plain, "reports": unsent, "last": False})
                unsent, posted = [], time.monotonic()
    tune.report({**plain, "reports": unsent, "last": True})


def _on_rank(
    ranks: TrialRanks | None, run: TrialSpec, payload: Payload, states: TrialStore
) -> Generator[Report, None, None]:
    """The same reports on each rank of a trial; None: on its only worker."""
    tasks, methods = payload.open()
    task, method = tasks[run.study.task], methods[run.study.method]
    yield from reports_of(run, task, method, states, ranks)


def reports_of(
    run: TrialSpec,
    task: Task,
    method: Method,
    states: TrialStore | None = None,
    ranks: TrialRanks | None = None,
) -> Iterator[Report]:
    """Everything that a trial reports; an exception is its last report."""
    trial = _Trial.of(run, task, method, states or TrialStore(None), ranks)
    kinds = {"search": trial.search, "final": trial.final, "descent": trial.descent}
    evidence = _evidence(task, run.study.seed)
    try:
        for report in kinds[run.kind]():
            if ranks is not None:
                require_same_report(report, ranks.group)
            yield report._replace(evidence=evidence)
            evidence = {}  # once is enough
    except Exception as error:
        trial.require_own(error)
        yield trial.broken(error)


def _evidence(task: Task, seed: int) -> dict[str, str]:
    """The fingerprint of what this process trains on; none of what cannot be read."""
    key = task.name, seed
    if key not in _fingerprints:
        _fingerprints[key] = {}
        with suppress(Exception):  # the trial itself will say what is wrong
            _fingerprints[key] = fingerprint(task, seed)._asdict()
    return _fingerprints[key]


@dataclass
class _Trial:
    """A trial on its worker.

    Attributes:
        given: the task as it was given.
        task: likewise, or with its examples shared out among the ranks of the trial.
        ranks: those; None where there is one worker.
        last: what it reported last.
    """

    run: TrialSpec
    given: Task
    task: Task
    method: Method
    states: TrialStore
    ranks: TrialRanks | None = None
    stopwatch: Stopwatch = field(default_factory=Stopwatch)
    last: Report | None = None

    @classmethod
    def of(
        cls,
        run: TrialSpec,
        task: Task,
        method: Method,
        states: TrialStore,
        ranks: TrialRanks | None,
    ) -> Self:
        """A trial, on one of its ranks where there are some."""
        if ranks is None:
            return cls(run, task, task, method, states)
        shared = cast(Task, DataParallelTask(task, ranks.group))
        return cls(run, task, shared, method, SharedStore(states, ranks.group), ranks)

    def search(self) -> Iterator[Report]:
        """Train at the given hyperparameters, from where the run starts."""
        run, start = self.run, self._start()
        for report, state in self.stopwatch.over(self._train(start, self.task.horizon)):
            if run.keep and not report.complete:
                self.states.save(run.study, run.number, report.inner_steps, state)
            yield self._report(report)

    def final(self) -> Iterator[Report]:
        """Train the best run again from its first step and look at the test set."""
        start = self._retrace(self.run.before)
        ahead = self.stopwatch.over(self._train(start, self.task.horizon))
        *_, (report, _) = ahead
        found, recorded = report.outer_loss, self.run.recorded
        differs = f"retrained outer loss {found} differs from the recorded {recorded}"
        yield self._final_report(report, "" if found == recorded else differs)

    def descent(self) -> Iterator[Report]:
        """Let the method descend, then look at the test set where it was best.

        After a search, only where that is better than what the search has found.
        """
        evaluator = self._evaluator()
        reports = self._descent(evaluator)
        best: Report | None = None
        try:
            for report in self.stopwatch.over(reports):
                yield self._report(report)
                if better(report, best):
                    best = report
                    evaluator.keep(report.state)
            evaluator.end()
        except Exception as error:
            self.require_own(error)
            # What was found before still counts, and is still looked at.
            yield self.broken(error)
        finally:
            evaluator.close()
        recorded = self.run.recorded
        if best and (best.returned or not best.outer_loss >= recorded):
            yield self._final_report(
                best._replace(state=evaluator.kept(partial(self._s_0, best)))
            )

    def _descent(self, evaluator: Evaluator) -> Iterator[Report]:
        run = self.run
        problem = self._problem(Report(hparams=self.task.space.initial_point()))
        given = self.task, problem, run.study.seed, run.budget, evaluator
        if isinstance(self.method, HybridMethod):
            return self.method.go_on(*given, run.known)
        assert isinstance(self.method, DescentMethod)
        return self.method.reports(*given)

    def require_own(self, error: Exception) -> None:
        """Raise an exception again that is none of the trial's own, on all its ranks.

        Raises:
            ReplayMismatch: the trial starts again: what it has said is not what it
                would say now.
            LostRank: likewise; see `TrialRanks.require_same_failure`.
        """
        if isinstance(error, ReplayMismatch | LostRank):
            raise error
        if self.ranks is not None:
            self.ranks.require_same_failure(error)

    def broken(self, error: Exception) -> Report:
        """What to say when an exception ends the trial."""
        end = self.run.broken(self.last, _reason(error))
        return end._replace(wall_s=self.stopwatch.seconds)

    def _evaluator(self) -> ReplayingEvaluator:
        run = self.run
        evidence = _evidence(self.given, run.study.seed)
        signature = signature_of(run, evidence, self.given, self.method)
        log = self.states.log(run.study, run.number, signature)
        if self.ranks is None:
            return ReplayingEvaluator(log, self.stopwatch)
        return SharedEvaluator(log, self.stopwatch, self.ranks.group)

    def _s_0(self, report: Report) -> State:
        problem = self._problem(report)
        space = self.task.space
        return problem.init(space.hparams(report.hparams, device=problem.device))

    def _train(
        self, start: tuple[int, State], end: int, point: Point | None = None
    ) -> Iterator[tuple[Report, State]]:
        """Train from rung to rung, at the run's hyperparameters or at others."""
        method = self._training
        rungs = (r for r in method.rungs(self.task) if start[0] < r <= end)
        config = point or self.run.hparams or {}
        return method.train(self.task, self._problem(), config, start, tuple(rungs))

    @property
    def _training(self) -> SearchMethod:
        """How it trains: as its method does, or at constant hyperparameters."""
        if self.run.constant:
            return PLAIN
        assert isinstance(self.method, SearchMethod)
        return self.method

    def _begin(self, point: Point) -> State:
        return self._training.begin(self.task, self._problem(), point)

    def _start(self) -> tuple[int, State]:
        """(t, s_t) where the run starts: initial weights, or what was saved."""
        before = self.run.before
        if not before:
            return self._retrace(())
        initial = self._begin(before[0].hparams)
        steps = sum(segment.steps for segment in before)
        saved = self.states.load(self.run.study, self.run.origin, steps, initial)
        return self._retrace(before) if saved is None else (steps, saved)

    def _retrace(self, segments: Sequence[Segment]) -> tuple[int, State]:
        """(t, s_t) by training again, which finds the same to the last bit."""
        first = segments[0].hparams if segments else self.run.hparams or {}
        t, state = 0, self._begin(first)
        for steps, hparams in segments:
            *_, (_, state) = self._train((t, state), t + steps, hparams)
            t += steps
        return t, state

    def _problem(self, report: Report | None = None) -> BilevelProblem:
        """The problem at the options of the run, or of a report."""
        task, seed = self.task, self.run.study.seed
        point = (self.run.hparams or {}) if report is None else report.hparams
        key = task.name, seed, choice_key(task, point)
        if key not in _problems:
            while len(_problems) >= CACHED_PROBLEMS:
                del _problems[next(iter(_problems))]  # the oldest
            problem = sample_problem(task, seed, point)
            self._warm_up(problem)
            _problems[key] = problem
        return _problems[key]

    def _warm_up(self, problem: BilevelProblem) -> None:
        """One step: a process' first imports much, which is no trial's own time."""
        hparams = self.task.space.initial()
        try:
            problem.step(problem.init(hparams), hparams, problem.batch(0))
        except Exception as error:  # other hyperparameters may do better
            self.require_own(error)

    def _report(self, report: Report, **end: Any) -> Report:
        """What leaves the worker: with the time, in plain numbers, and its end."""
        self.last = Report(
            outer_step=int(report.outer_step),
            inner_steps=int(report.inner_steps),
            gradient_evals=float(report.gradient_evals),
            outer_loss=float(report.outer_loss),
            complete=bool(report.complete),
            hparams=self.task.space.parse(report.hparams),
            wall_s=self.stopwatch.seconds,
            **{name: getattr(report, name) for name in (*TRUST, "returned")},
            **{"failure": non_finite(report), **end},
        )
        return self.last

    def _final_report(self, report: Report, failure: str = "") -> Report:
        """The one look at the test set, at the end of a full run."""
        metrics: dict[str, float] = {}
        try:
            metrics = self._held_out(report)
        except Exception as error:
            self.require_own(error)
            failure = "; ".join(filter(None, [failure, _reason(error)]))
        report = report._replace(offset=math.nan)
        return self._report(report, kind="final", failure=failure, metrics=metrics)

    def _held_out(self, report: Report) -> dict[str, float]:
        """Metrics of the test set and of data held back, by column name.

        For the latter it trains at the start once more, uncharged as the final run is.
        """
        problem, space = self._problem(report), self.task.space
        hparams = space.hparams(report.hparams, device=problem.device)
        found = _test(problem, hparams, report.state)
        found |= held_out(problem, report.state, hparams)
        if "holdout_loss" in found:
            start = Report(hparams=space.initial_point())
            problem = self._problem(start)
            hparams = space.hparams(start.hparams, device=problem.device)
            state, _ = plain_run(problem, hparams, self.task.horizon)
            found["start_holdout_loss"] = held_out(problem, state, hparams)[
                "holdout_loss"
            ]
        return found


def _test(problem: BilevelProblem, hparams: Hparams, state: State) -> dict[str, float]:
    """Metrics on the test set by column name."""
    if problem.metrics is None:
        return {}
    found = problem.metrics(state, hparams)
    return {
        name if name.startswith("test_") else f"test_{name}": float(value)
        for name, value in found.items()
    }


def _reason(error: Exception) -> str:
    """Class and message of an exception, on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:MAX_REASON]
