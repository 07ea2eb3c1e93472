"""Reports of a trial, and the outer loss that they are about."""

import math
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import torch

from raymeta._tree import is_differentiable
from raymeta.hypergrad.base import advance
from raymeta.problem import BilevelProblem
from raymeta.space import Point
from raymeta.types import Hparams, State

#: λ over one training run: (number of steps, λ) in order.
Schedule = list[tuple[int, Point]]


class Report(NamedTuple):
    """An evaluation of the outer loss, as the frame has it in a row.

    Who evaluates makes it, whoever runs the trial adds when and on what, and that
    travels to the frame: see `raymeta.results.schema`.

    Attributes:
        outer_step: evaluations of the outer loss by this trial so far, from 1.
        inner_steps: training steps of the run that this report is about.
        gradient_evals: what this trial has spent so far.
        outer_loss: E now; may be non-finite.
        complete: whether this is E(s_T, λ), the value of a full run.
        hparams: λ.
        state: s_T of a complete run, else None. It does not travel.
        schedule: λ over the steps of a complete run, else None. It does not travel.
        wall_s: seconds that the trial has spent in training and evaluation so far.
        kind: "report"; "failed" where a trial ends without an outer loss; "final", the
            one look at the test set.
        failure: why there is no finite outer loss, "" without a reason.
        metrics: held-out values of the final look, by column name: on the test set, and
            what `held_out` finds.
        parent: the trial whose training this continues; None for its own.
        evidence: digests of what the trial trains on, in its first report.
        agreement: how far values have confirmed slopes until then, NaN where nothing is
            known; see `raymeta.outer.trust.Trust`, also for the next two.
        roughness: how far E departs from what is predicted from beside.
        rejected: share of the evaluations that were not below all before.
        offset: of a look beside a point, the distance from it in the coordinate where
            E is steepest, negative downhill; NaN for all others.
        returned: whether this is what the trial returns, although others ended lower.
    """

    outer_step: int = 0
    inner_steps: int = 0
    gradient_evals: float = 0.0
    outer_loss: float = math.nan
    complete: bool = False
    hparams: Point = {}  # noqa: RUF012, never changed
    state: State | None = None
    schedule: Schedule | None = None
    wall_s: float = 0.0
    kind: Literal["report", "failed", "final"] = "report"
    failure: str = ""
    metrics: dict[str, float] = {}  # noqa: RUF012, never changed
    parent: int | None = None
    evidence: dict[str, str] = {}  # noqa: RUF012, never changed
    agreement: float = math.nan
    roughness: float = math.nan
    rejected: float = math.nan
    offset: float = math.nan
    returned: bool = False

    @property
    def status(self) -> str:
        """The frame's: "complete" or "running", or else the kind."""
        if self.kind != "report":
            return self.kind
        return "complete" if self.complete else "running"

    @property
    def scores(self) -> bool:
        """Whether this is the finite outer loss of a full run."""
        return self.status == "complete" and math.isfinite(self.outer_loss)

    def travelling(self) -> dict[str, Any]:
        """The fields that a journal holds: all but state and schedule."""
        fields = self._asdict()
        del fields["state"], fields["schedule"]
        return fields

    def ended(self, kind: Literal["failed", "final"], failure: str) -> "Report":
        """The end of a trial that has no outer loss, after this report."""
        return self._replace(
            kind=kind, outer_loss=math.nan, complete=False, failure=failure, metrics={}
        )


def non_finite(report: Report) -> str:
    """Why a report has no finite outer loss; "" where it has."""
    if math.isfinite(report.outer_loss):
        return ""
    return f"non-finite outer loss at inner step {report.inner_steps}"


def lowest_kept(reports: Iterable[Report]) -> float:
    """E of what a trial returns although others ended lower; −∞ where none is so."""
    returned = (report.outer_loss for report in reports if report.returned)
    return next(returned, -math.inf)


def plain_run(
    problem: BilevelProblem, hparams: Hparams, horizon: int
) -> tuple[State, float]:
    """(s_T, E(s_T, λ)) of training at fixed λ."""
    state = advance(problem, hparams, problem.init(hparams), 0, horizon)
    return state, outer_value(problem, state, hparams)


def outer_value(problem: BilevelProblem, state: State, hparams: Hparams) -> float:
    """E as a number."""
    with torch.no_grad():
        return float(problem.outer_loss(state, hparams))


def held_out(
    problem: BilevelProblem, state: State, hparams: Hparams
) -> dict[str, float]:
    """What tells whether the validation set was overfitted, by column name.

    Returns:
        `standard_error`, of E over k parts of the validation data; `holdout_loss`, on
        data held back; `examples`, in E for each hyperparameter. What the problem does
        not have is left out.
    """
    found = {}
    count = sum(x.numel() for x in hparams.values() if is_differentiable(x))
    if problem.validation_size is not None and count:
        found["examples"] = problem.validation_size / count
    with torch.no_grad():
        if problem.fold_losses is not None:
            losses = problem.fold_losses(state, hparams)
            found["standard_error"] = float(losses.std()) / len(losses) ** 0.5
        if problem.holdout_loss is not None:
            found["holdout_loss"] = float(problem.holdout_loss(state, hparams))
    return found
