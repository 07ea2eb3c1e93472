"""Specifications of a comparison: its studies, and the trials that they run."""

import math
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from raymeta.outer.budget import BudgetMeter
from raymeta.outer.report import Report
from raymeta.results.schema import BLACK_BOX
from raymeta.search.methods import Method, SearchMethod
from raymeta.search.methods.hybrid import HybridMethod
from raymeta.space import Point
from raymeta.tasks.base import Task

NAN = float("nan")


class StudyKey(NamedTuple):
    """The identity of a study: one curve of the comparison."""

    task: str
    method: str
    seed: int

    def __str__(self) -> str:
        return f"{self.task}/{self.method}/{self.seed}"


@dataclass(frozen=True, kw_only=True)
class StudySpec:
    """A study: a method on a task under a seed.

    Attributes:
        budget: gradient evaluations that it may spend.
        charges: what a trial is charged from rung to rung; () for a descent.
        plain_run: the charge for a training at constant hyperparameters.
        descent_run: the least that the descent of a hybrid needs.
        flops: operations of one gradient evaluation, see `step_flops`; NaN where
            unknown.
        at_once: trials in flight where suggestions depend on the order of results.
    """

    task: Task
    method: Method
    seed: int
    budget: float
    charges: tuple[float, ...]
    plain_run: float
    descent_run: float = NAN
    flops: float = NAN
    at_once: int = 1

    @property
    def key(self) -> StudyKey:
        """Its identity in the journal and the frame."""
        return StudyKey(self.task.name, self.method.name, self.seed)

    @property
    def full_run(self) -> float:
        """Gradient evaluations of a whole training with all its reports."""
        return self.rest_of_run(0)

    def rest_of_run(self, steps: int) -> float:
        """Gradient evaluations of a training after some steps, reports included."""
        assert isinstance(self.method, SearchMethod)
        each = zip(self.method.rungs(self.task), self.charges, strict=True)
        return math.fsum(charge for rung, charge in each if rung > steps)

    @property
    def searches(self) -> bool:
        """Whether its trials train at, or from, what a searcher suggests."""
        return isinstance(self.method, SearchMethod)

    @property
    def looks_at_start(self) -> bool:
        """Whether plain training at the initial values comes before the search."""
        if not (isinstance(self.method, HybridMethod) and self.method.looks_at_start):
            return False
        return BudgetMeter(self.budget).covers(self.plain_run + self.full_run)

    @property
    def for_search(self) -> float:
        """What may be spent on what a searcher suggests; all where nothing follows."""
        assert isinstance(self.method, SearchMethod)
        share = self.method.share(self.task)
        left = (1 - share) * self.budget
        follows = share < 1 and BudgetMeter(left).covers(self.descent_run)
        return share * self.budget if follows else self.budget

    @property
    def is_black_box(self) -> bool:
        """Whether its trials train at constant hyperparameters."""
        return self.searches and self.method.family == BLACK_BOX


class Segment(NamedTuple):
    """Training at constant hyperparameters.

    Attributes:
        steps: training steps.
        hparams: λ, with what a scheduler has added.
    """

    steps: int
    hparams: Point


@dataclass(frozen=True, kw_only=True)
class TrialSpec:
    """A trial to run, or to run on, as it is sent to a worker.

    Attributes:
        study: key of its study.
        number: its number within the study, from 0.
        kind: a "search" trains at `hparams`; a "final" trains all of a run again and
            looks at the test set; a "descent" is the one trial of a hypergradient
            method, or the last one of a hybrid.
        hparams: λ, with what a scheduler has added; None for a method's one descent.
        budget: the gradient evaluations of a descent.
        recorded: outer loss that a final run must find again, or below which the
            descent of a hybrid looks at the test set.
        known: points and E there, from which the descent of a hybrid goes on.
        before: how training came where it starts; nothing at initial weights.
        origin: the trial of which it continues the training.
        keep: whether training states are saved where it reports.
        constant: whether it trains at constant hyperparameters, whatever the method.
    """

    study: StudyKey
    number: int
    kind: Literal["search", "final", "descent"]
    # Tune puts the repr of a trial's configuration into its tag.
    hparams: Point | None = field(default=None, repr=False)
    budget: float = NAN
    recorded: float = NAN
    known: tuple[tuple[Point, float], ...] = field(default=(), repr=False)
    before: tuple[Segment, ...] = field(default=(), repr=False)
    origin: int = -1
    keep: bool = False
    constant: bool = False

    def broken(self, last: Report | None, failure: str) -> Report:
        """The end of the trial without an outer loss, after its last report."""
        last = last or Report(hparams=self.hparams or {})
        return last.ended("final" if self.kind == "final" else "failed", failure)
