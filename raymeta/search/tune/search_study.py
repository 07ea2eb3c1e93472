"""The study of a black-box method: a searcher, a scheduler, and their trials.

The searcher and the scheduler are Tune's own, or like them. They are called as objects,
in the order in which Tune would call them, with `group` in the place of its controller.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from raymeta.outer.budget import BudgetMeter
from raymeta.outer.report import Report, non_finite
from raymeta.search.methods import SearchMethod
from raymeta.search.methods.hybrid import HybridMethod
from raymeta.search.spec import Segment, StudySpec, TrialSpec
from raymeta.search.study.study import DescentStudy, Study
from raymeta.search.study.sums import Sums
from raymeta.search.tune.controller import (
    RUNNING,
    CheckpointAdapter,
    ControllerAdapter,
    TrialAdapter,
)
from raymeta.search.tune.isolated_rng import IsolatedGlobalRNG
from raymeta.search.tune.space import to_tune
from raymeta.space import Point


def study_of(spec: StudySpec) -> Study:
    """The start of a study.

    Raises:
        ValueError: a black-box study on a space without bounds, or on one that the
            method cannot search; a method whose searcher or scheduler is not left to
            the comparison.
    """
    return SearchStudy(spec) if spec.searches else DescentStudy(spec)


class SearchStudy(Study):
    """Trials that a searcher suggests, then one look at the test set.

    After part of the budget of a hybrid no trial is suggested any more. Where its best
    run was not at a constant λ, the one at which it ended is trained at; then a descent
    goes on from all that was trained at constant λ (`HybridMethod`). Where λ changes
    in all runs, a plain one at the space's initial values, of which neither the
    searcher nor the scheduler hears, comes before: what is found is never worse.
    A trial starts, or goes on after a pause, only while what remains of the budget
    covers the rest of a full run; one that ends early gives the rest back.
    """

    def __init__(self, spec: StudySpec) -> None:
        super().__init__(spec)
        self._rng = IsolatedGlobalRNG(spec.seed)
        with self._rng:
            self._searcher, scheduler, most = _inner(spec)
        self._for_search = spec.for_search
        self._rest_of_run = functools.cache(spec.rest_of_run)
        self._runs = self._for_search / self._rest_of_run(0)
        ahead = self._method.ahead(spec.task, self._runs)
        self._in_order = ahead > 1
        self._slots = (
            min(ahead, most or ahead) if self._in_order else most or spec.at_once
        )
        # A trial whose worker has gone when its turn comes goes on from its state.
        goes_on = self._in_order and len(self._method.rungs(spec.task)) > 1
        self._keeps = self._method.pauses or goes_on
        self._reserved = Sums()
        self._controller = ControllerAdapter(self._searcher, scheduler)
        self._suggested = 0
        self._start_due = spec.looks_at_start
        self._dropped: set[int] = set()
        self._joined: set[int] = set()  # whose last segment goes on the one before
        self._way: tuple[Segment, ...] = ()
        self._known: list[tuple[Point, float]] = []  # E over T at constant λ
        self._constant = False  # whether the best run is a plain one
        self._constant_asked = False  # whether λ of the best one was trained at
        self._searched: _Best | None = None  # what is best before the descent
        self._descent = -1  # its number
        self._exhausted = False
        self._final_asked = False

    @property
    def most_in_flight(self) -> tuple[int, str]:
        """As many as the method allows and the budget covers, and which of these."""
        runs = max(1, int(self.spec.budget / self.spec.full_run))
        if self._batch_size() > 1 and self._slots < math.inf:
            return int(self._slots), "one batch"
        if self._slots >= runs:
            return runs, "the budget's runs"
        return int(self._slots), "at_once"

    @property
    def _method(self) -> SearchMethod:
        assert isinstance(self.spec.method, SearchMethod)
        return self.spec.method

    def disused(self) -> list[int]:
        """Trials that are over; of a batch, when all are."""
        over = {self._descent} if self._final_asked and self._descent >= 0 else set()
        together = self._batch_size() > 1 and self._controller.trials
        if self._keeps and not together:
            over |= set(self._controller.numbers) - set(self._controller.trials)
        over -= self._dropped
        self._dropped |= over
        return sorted(over)

    def _apply(self, number: int, reports: Sequence[Report], last: bool) -> bool:
        """The same; a trial that the user's stopper has ended is over."""
        over = super()._apply(number, reports, last)
        trial = self._controller.trials.get(number)
        if last and trial is not None:
            with self._rng:
                self._controller.stop_trial(trial)
        return over

    def _next(self) -> TrialSpec | None:
        if self._start_due:
            return self._at_start()
        if len(self.live) >= self._slots or self._at_start_now():
            return None
        with self._rng:
            trial = self._next_trial()
        if trial is not None:
            self._joined.discard(trial.number)
            return self._segment(trial)
        if self.live or self.best is None or self._final_asked:
            return None
        if self._constant_due():
            self._constant_asked = True
            return self._at_constant(self.best[1])
        if self._descent_due():
            return self._descend(*self.best)
        self._final_asked = True
        return TrialSpec(
            study=self.spec.key,
            number=self._suggested,
            kind="final",
            hparams=self._way[-1].hparams,
            recorded=self.best[0],
            before=self._way[:-1],
            constant=self._constant,
        )

    def _at_start(self) -> TrialSpec:
        """The plain run that a hybrid is compared with, as its trial 0."""
        self._start_due = False
        return self._at_constant(self.spec.task.space.initial_point())

    def _constant_due(self) -> bool:
        """Whether λ where a hybrid's best run ended is still to be trained at."""
        if self.spec.is_black_box or self._constant_asked or self._descent >= 0:
            return False
        constant = _constant([segment.hparams for segment in self._way])
        return not constant and self._meter().covers(self.spec.plain_run)

    def _descent_due(self) -> bool:
        """Whether a hybrid is still to descend."""
        due = isinstance(self._method, HybridMethod) and self._descent < 0
        return due and bool(self._known) and self._meter().covers(self.spec.descent_run)

    def _descend(self, value: float, point: Point) -> TrialSpec:
        """The descent of a hybrid, with what is left."""
        self._searched = _Best(self.best, self._way, self._constant)
        self._descent = self._suggested
        self._suggested += 1
        return TrialSpec(
            study=self.spec.key,
            number=self._descent,
            kind="descent",
            hparams=self.spec.task.space.parse(point),
            budget=self.spec.budget - self.spent,
            recorded=value,
            known=tuple(self._known),
        )

    def rerun(self, number: int) -> None:
        """The same; what a descent has found it will find again."""
        super().rerun(number)
        if number == self._descent and self._searched is not None:
            self.best, self._way, self._constant = self._searched
            self._final_asked = False

    def _at_constant(self, point: Point) -> TrialSpec:
        """A plain run, as a trial of its own."""
        self._suggested += 1
        return TrialSpec(
            study=self.spec.key,
            number=self._suggested - 1,
            kind="search",
            hparams=self.spec.task.space.parse(point),
            constant=True,
        )

    def _at_start_now(self) -> bool:
        """Whether one is in flight: what the budget covers is known when it is over."""
        hybrid = not self.spec.is_black_box
        return hybrid and any(run.constant for run in self.live.values())

    def _has_more(self) -> bool:
        waiting = bool(self._controller.trials) or self._may_grow()
        return waiting or (self.best is not None and not self._final_asked)

    def _next_trial(self) -> TrialAdapter | None:
        """The trial to run now; those that the budget does not cover are over."""
        while True:
            self._grow()
            trial = self._controller.next_trial()
            if trial is not None and self._covers(trial.checkpoint.steps):
                return trial
            if self.live or not self._controller.trials:
                return None  # what is reserved for the live may come back
            if trial is not None:
                self._controller.stop_trial(trial)
            else:
                self._controller.resume_waiting()

    def _segment(self, trial: TrialAdapter) -> TrialSpec:
        trial.status = RUNNING
        return TrialSpec(
            study=self.spec.key,
            number=trial.number,
            kind="search",
            hparams=_point_of(self.spec, trial.config),
            before=trial.checkpoint.segments,
            origin=trial.checkpoint.number,
            keep=self._keeps,
        )

    def _may_go_on(self, number: int) -> bool:
        return number in self._controller.trials

    def _going_on(self, number: int) -> TrialSpec:
        self._joined.add(number)
        return self._segment(self._controller.trials[number])

    def _meter(self) -> BudgetMeter:
        """What trials have spent, or may need to end their runs."""
        for number in self._moved:
            run = self.live.get(number)
            if run is None or run.kind == "descent":
                self._reserved.drop(number)
                continue
            rest = self._rest_of_run(_start(run))
            self._reserved.put(number, rest - self._spent_since_start(number))
        self._moved.clear()
        return BudgetMeter(self.spec.budget, self.spent + self._reserved.total)

    def _covers(self, steps: int) -> bool:
        """Whether a run after these steps can go on to its end."""
        return self._meter().covers(self._rest_of_run(steps))

    def _batch_size(self) -> int:
        return self._method.batch_size(self.spec.task, self._runs)

    def _may_grow(self) -> bool:
        together = self._batch_size() > 1
        waits = (
            bool(self._controller.trials) if together else self._controller.pending()
        )
        if self._exhausted or waits or not self._covers(0):
            return False
        return self.best is None or self._search_meter().covers(self._rest_of_run(0))

    def _search_meter(self) -> BudgetMeter:
        """What trials have spent, of what is for the searcher's."""
        return BudgetMeter(self._for_search, self._meter().spent)

    def _grow(self) -> None:
        """Let the searcher suggest the next trial, or the next batch."""
        if not self._may_grow():
            return
        if self._batch_size() == 1:
            self._suggest()
            return
        if self._controller.numbers:
            _, scheduler, _ = _inner(self.spec)
            self._controller = ControllerAdapter(self._searcher, scheduler)
        runs = max(1, self._search_meter().runs(self._rest_of_run(0)))
        for _ in range(self._method.batch_size(self.spec.task, runs)):
            if not self._exhausted:
                self._suggest()

    def _suggest(self) -> None:
        found = self._searcher.suggest(str(self._suggested))
        if found is None or found == Searcher.FINISHED:
            self._exhausted = found is not None or not self.live
            return
        self._controller.add(TrialAdapter(self._suggested, _used(self.spec, found)))
        self._suggested += 1

    def _as_recorded(self, run: TrialSpec, report: Report) -> Report:
        if run.kind != "search":
            return report
        if report.outer_step <= 1 and run.origin not in (-1, run.number):
            report = report._replace(parent=run.origin)
        if report.kind == "failed":
            # What it had spent when it raised is not known: the most it can be.
            most = (
                self.spec.plain_run if run.constant else self._rest_of_run(_start(run))
            )
            steps = max(report.inner_steps, _start(run))
            return report._replace(gradient_evals=most, inner_steps=steps)
        return (
            run.broken(report, failure) if (failure := non_finite(report)) else report
        )

    def _on_report(self, run: TrialSpec, report: Report) -> bool:
        if run.kind == "final":
            return True
        if run.kind == "descent":
            return self._on_descent_report(run, report)
        self._learn(run, report)
        if run.constant:
            assert report.complete or report.kind == "failed"
            assert run.hparams is not None
            if self._improve(report):
                self._way = (Segment(report.inner_steps, run.hparams),)
                self._constant = True
            return True
        trial = self._controller.trials[run.number]
        if report.kind == "report":
            return self._on_result(run, trial, report)
        with self._rng:
            self._controller.fail(trial)
        return True

    def _learn(self, run: TrialSpec, report: Report) -> None:
        """Keep E over T for the descent of a hybrid, if all was at one λ."""
        diverged = report.kind == "failed" and report.failure == non_finite(report)
        if self.spec.is_black_box or not (report.complete or diverged):
            return
        point = self.spec.task.space.parse(run.hparams or {})
        points = [point, *(part.hparams for part in run.before)]
        if _constant(points) and all(point != known for known, _ in self._known):
            value = math.inf if diverged else report.outer_loss
            self._known.append((point, value))

    def _on_descent_report(self, run: TrialSpec, report: Report) -> bool:
        """Its last one looks at the test set, where it has found something better."""
        if self._improve(report):
            self._way = (Segment(report.inner_steps, report.hparams),)
            self._constant = True
        self._final_asked = self._final_asked or report.kind == "final"
        return False

    def _on_result(self, run: TrialSpec, trial: TrialAdapter, report: Report) -> bool:
        """Show a result to the scheduler and the searcher; whether the trial ends."""
        if report.inner_steps <= trial.steps_seen:
            return False  # its worker died later: then, it had been told to continue
        trial.steps_seen = report.inner_steps
        segment = Segment(report.inner_steps - _start(run), run.hparams or {})
        before = run.before
        if run.number in self._joined:
            *others, begun = before
            before = tuple(others)
            segment = segment._replace(steps=begun.steps + segment.steps)
        trial.save(CheckpointAdapter(run.number, (*before, segment)))
        if self._improve(report):
            self._way, self._constant = trial.checkpoint.segments, False
        result: dict[str, Any] = {
            "outer_loss": report.outer_loss,
            "inner_steps": report.inner_steps,
            "gradient_evals": report.gradient_evals,
            "training_iteration": report.outer_step,
            "config": trial.config,
        }
        with self._rng:
            decision = self._controller.on_result(trial, result, report.complete)
        allowed = [TrialScheduler.CONTINUE, TrialScheduler.STOP]
        if decision not in allowed + [TrialScheduler.PAUSE] * self._method.pauses:
            raise ValueError(
                f"the scheduler of method {self.spec.method.name!r} may continue or "
                f"stop a trial, but it decided to {decision}: use another scheduler, "
                "or say pauses=True"
            )
        return decision != TrialScheduler.CONTINUE


class _Best(NamedTuple):
    """What a study has found: E and where, how it came there, see `SearchStudy`."""

    best: tuple[float, Point] | None
    way: tuple[Segment, ...]
    constant: bool


def _constant(points: Sequence[Point]) -> bool:
    return all(point == points[0] for point in points)


def _start(run: TrialSpec) -> int:
    """Training steps before a run."""
    return sum(segment.steps for segment in run.before)


def _used(spec: StudySpec, found: dict[str, Any]) -> dict[str, Any]:
    """A suggestion without what its options do not use."""
    space = spec.task.space
    unused = space.flat_domains().keys() - space.used(found).keys()
    return {name: value for name, value in found.items() if name not in unused}


def _point_of(spec: StudySpec, config: dict[str, Any]) -> Point:
    """The point of a trial's configuration, with what the scheduler has added."""
    return config | spec.task.space.parse(config)


def _inner(spec: StudySpec) -> tuple[Searcher, Any, int | None]:
    """The method's searcher and scheduler, set up as Tune would do it, and a limit."""
    assert isinstance(spec.method, SearchMethod)
    method = spec.method.sized(spec.budget / spec.full_run)
    space = to_tune(spec.task.space)
    config = method.tune_config(spec.task, spec.seed)
    searcher, scheduler = config.search_alg, config.scheduler or FIFOScheduler()
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
    return searcher, scheduler, config.max_concurrent_trials
