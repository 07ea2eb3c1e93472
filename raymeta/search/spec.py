"""What a comparison is made of: studies, the trials they run, what a trial reports."""

import math
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from raymeta.outer.budget import BudgetMeter
from raymeta.search.methods import BLACK_BOX, Method, SearchMethod
from raymeta.search.tune.space import Coded
from raymeta.tasks.base import Task

NAN = float("nan")
Kind = Literal["report", "failed", "final"]


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
        budget: in gradient evaluations.
        charges: what a trial is charged from rung to rung; () for a descent.
        plain_run: the charge for a training at constant hyperparameters.
        flops: of one gradient evaluation, see `step_flops`; NaN where unknown.
    """

    task: Task
    method: Method
    seed: int
    budget: float
    charges: tuple[float, ...]
    plain_run: float
    flops: float = NAN

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
        """Whether plain training at the initial values comes before a hybrid's."""
        if not self.searches or self.is_black_box:
            return False
        return BudgetMeter(self.budget).covers(self.plain_run + self.full_run)

    @property
    def is_black_box(self) -> bool:
        """Whether its trials train at constant hyperparameters."""
        return self.searches and self.method.family == BLACK_BOX


class Segment(NamedTuple):
    """Training at constant hyperparameters.

    Attributes:
        steps: how many.
    """

    steps: int
    hparams: Coded


@dataclass(frozen=True, kw_only=True)
class TrialSpec:
    """A trial to run, or to run on, as it is sent to a worker.

    Attributes:
        number: of the trial within its study, from 0.
        kind: a "search" trains at `hparams`; a "final" trains all of a run again and
            looks at the test set; a "descent" is the one trial of a hypergradient
            method.
        hparams: None for a descent.
        budget: of the study, in gradient evaluations.
        recorded: the outer loss that a final run must find again.
        before: how training came where it starts; nothing at initial weights.
        origin: the trial of which it continues the training.
        keep: whether training states are saved where it reports.
        constant: whether it trains at constant hyperparameters, whatever the method.
    """

    study: StudyKey
    number: int
    kind: Literal["search", "final", "descent"]
    # Tune puts the repr of a trial's configuration into its tag.
    hparams: Coded | None = field(default=None, repr=False)
    budget: float = NAN
    recorded: float = NAN
    before: tuple[Segment, ...] = field(default=(), repr=False)
    origin: int = -1
    keep: bool = False
    constant: bool = False


class TrialReport(NamedTuple):
    """What a running trial reports: a `loop.Report` as plain numbers, or its end.

    Attributes:
        kind: a "report"; "failed", by an exception or a non-finite outer loss; or
            "final", the one look at the test set.
        outer_step: as in `loop.Report`, like the following.
        inner_steps: training steps of the run that this is about.
        gradient_evals: what the trial has spent so far.
        wall_s: seconds that the trial has spent in training and evaluation so far.
        outer_loss: NaN when it failed.
        complete: whether this is the value of a full run.
        hparams: at which it was measured.
        failure: the reason, "" without one.
        metrics: on the test set, by column name.
        parent: the trial whose training this continues; None for its own.
        evidence: of what it trains on, in its first report: see `Fingerprint`.
    """

    kind: Kind
    outer_step: int = 0
    inner_steps: int = 0
    gradient_evals: float = 0.0
    wall_s: float = 0.0
    outer_loss: float = NAN
    complete: bool = False
    hparams: Coded = {}  # noqa: RUF012, never changed
    failure: str = ""
    metrics: dict[str, float] = {}  # noqa: RUF012, never changed
    parent: int | None = None
    evidence: dict[str, str] = {}  # noqa: RUF012, never changed


def broken(run: TrialSpec, last: TrialReport | None, failure: str) -> TrialReport:
    """The end of a trial that has no outer loss, after its last report."""
    last = last or TrialReport("report", hparams=run.hparams or {})
    kind: Kind = "final" if run.kind == "final" else "failed"
    return last._replace(
        kind=kind, outer_loss=NAN, complete=False, failure=failure, metrics={}
    )
