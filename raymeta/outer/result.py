"""Results of descents in this process."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import nn

from raymeta import display
from raymeta.optim import LearnedSchedule, export_schedule
from raymeta.optim.export import GroupSettings
from raymeta.outer.report import Report, Schedule, lowest_kept
from raymeta.results.overfitting import Losses, overfitting
from raymeta.results.profile import profile_of
from raymeta.results.schema import (
    HELD_OUT,
    HYPERGRADIENT,
    REPORTS,
    REQUIRED_COLUMNS,
    TRUST,
    frame_of,
    hparam_columns,
)
from raymeta.types import Hparams, State, Tensors

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, repr=False)
class Result:
    """Result of a hypergradient descent.

    Attributes:
        task: name of the task.
        method: the estimator's name.
        seed: the one of the task's sample.
        hparams: λ of the best run in natural values. Where λ changed during that run,
            the mean in unconstrained coordinates: a run at this constant λ is another
            run than `schedule`, with another outer loss.
        outer_loss: E(s_T) of the best run, which `schedule` describes.
        state: s_T of the best run.
        schedule: λ over the steps of the best run: `replay` reproduces it.
        metrics: held-out metrics of the best run's state, looked at once; empty where
            the problem has none.
        reports: everything that was reported, in order, without states.
        start_holdout_loss: the loss on validation data held back, after training at the
            start; NaN where none were, see `module_problem(holdout=…)`.
        holdout_loss: the same of the best run.
        standard_error: that of `outer_loss` over the validation examples; NaN where it
            is not known.
        examples: validation examples for each hyperparameter, likewise.
        interrupted: whether Ctrl-C ended it before the budget was spent.
        tuned: makes the module of `module()`.
    """

    task: str
    method: str
    seed: int
    hparams: Hparams
    outer_loss: float
    state: State
    schedule: Schedule
    metrics: Mapping[str, float]
    reports: list[Report]
    interrupted: bool = False
    tuned: Callable[[], nn.Module] | None = None
    start_holdout_loss: float = math.nan
    holdout_loss: float = math.nan
    standard_error: float = math.nan
    examples: float = math.nan

    def __repr__(self) -> str:
        ended = ", interrupted" if self.interrupted else ""
        return (
            f"Result({self.task!r} by {self.method}, seed {self.seed}: outer_loss="
            f"{self.outer_loss:.5g}{self._from_start()}, hparams=("
            f"{display.entries(self.hparams)}), {len(self.reports)} reports{ended})"
        )

    def _repr_html_(self) -> str:
        rows = {
            "outer loss": f"{self.outer_loss:.5g}{self._from_start()}",
            **{f"λ {name}": value for name, value in self.hparams.items()},
            **self.metrics,
            "gradient evaluations": self.reports[-1].gradient_evals,
            "reports": len(self.reports),
            **({"warning": self.overfitting} if self.overfitting else {}),
        }
        return display.table(f"{self.task} by {self.method}, seed {self.seed}", rows)

    def _from_start(self) -> str:
        return "" if self.start_loss is None else f" (start {self.start_loss:.5g})"

    def plot(self) -> Any:
        """A figure of the outer loss and of λ against gradient evaluations."""
        title = f"{self.task} by {self.method}"
        return display.figures().draw_descent(self.frame, title)

    @property
    def start_loss(self) -> float | None:
        """E(s_T) of training at the start; ∞ where that diverged.

        It is what the first report says, and `outer_loss` is at most that. None where
        the budget did not cover it.
        """
        first = self.reports[0]
        if not first.complete:
            return None
        return first.outer_loss if math.isfinite(first.outer_loss) else math.inf

    @property
    def profile(self) -> dict[float, float]:
        """E beside the best point, which is looked at in the end, by the distance.

        At 0 stands E there, at ±0.03 on both sides: in log λ for `Positive`, so 3 %, of
        the hyperparameter in which E is steepest, of others less in proportion;
        negative is downhill. `outer_loss` is the lowest of them, or more where that was
        a lucky point that is not returned. ∞ where training diverged; empty where the
        budget did not cover looks.
        """
        return profile_of(self.frame)

    @property
    def overfitting(self) -> str:
        """Why `outer_loss` is not to be believed; "" without a reason.

        See `raymeta.results.overfitting.overfitting`.
        """
        start = self.start_loss
        losses = Losses(
            start=math.nan if start is None else start,
            result=self.outer_loss,
            standard_error=self.standard_error,
            start_holdout=self.start_holdout_loss,
            holdout=self.holdout_loss,
            test=self.metrics.get("test_loss", math.nan),
            examples=self.examples,
        )
        return overfitting(losses)

    @property
    def params(self) -> Tensors:
        """The weights after the best run, by name; `state.params`."""
        return self.state.params

    def module(self) -> nn.Module:
        """The tuned module: a copy, with the weights and buffers of the best run.

        It is of the user's own classes, in evaluation mode, and depends on nothing
        else: by plain torch it has `outer_loss` on the validation data; where the task
        has an autocast, within it, and to its rounding. With `batch_norm="batch"` its
        batch norms keep no statistics; with `PerStep` they have the last step's.

        Raises:
            ValueError: the task does not train a module.
        """
        if self.tuned is None:
            raise ValueError(
                f"module() needs a task made with module_problem, but {self.task!r} "
                "trains no module: take its state"
            )
        return self.tuned()

    @overload
    def export(self, to: str | Path) -> None: ...
    @overload
    def export(
        self,
        to: torch.optim.Optimizer,
        settings: Callable[[Mapping[str, Any], int], GroupSettings] | None = None,
    ) -> LearnedSchedule: ...
    def export(
        self,
        to: str | Path | torch.optim.Optimizer,
        settings: Callable[[Mapping[str, Any], int], GroupSettings] | None = None,
    ) -> LearnedSchedule | None:
        """`schedule` as JSON, or as a scheduler of plain `torch.optim`.

        Options that JSON does not have (functions, classes) are written by name.
        See `raymeta.optim.export_schedule`, `load_schedule` and `LearnedSchedule`.
        """
        if isinstance(to, torch.optim.Optimizer):
            return export_schedule(self.schedule, to, settings)
        return export_schedule(self.schedule, to)

    @property
    def frame(self) -> "DataFrame":
        """One row per report, in the columns of a comparison; the last row is final."""
        rows: list[dict[str, Any]] = []
        best: Report | None = None
        lowest = lowest_kept(self.reports)
        for report in self.reports:
            if better(report, best) and report.outer_loss >= lowest:
                best = report
            rows.append(self._row(report, best))
        assert best is not None
        last = self.reports[-1]
        end = best._replace(
            kind="final",
            gradient_evals=last.gradient_evals,
            wall_s=last.wall_s,
            offset=math.nan,
        )
        rows[0]["holdout_loss"] = self.start_holdout_loss
        held_out = {name: getattr(self, name) for name in HELD_OUT}
        rows.append({**self._row(end, best), **held_out, **self.metrics})
        known = (*REQUIRED_COLUMNS, *TRUST, *HELD_OUT)
        names = dict.fromkeys(name for row in rows for name in row)
        others = dict.fromkeys(name for name in names if name not in REPORTS)
        return frame_of(rows, [n for n in REPORTS if n in known], others)

    def _row(self, report: Report, best: Report | None) -> dict[str, Any]:
        finite = math.isfinite(report.outer_loss)
        return {
            "task": self.task,
            "method": self.method,
            "family": HYPERGRADIENT,
            "seed": self.seed,
            "trial": 0,
            "outer_step": report.outer_step,
            "inner_steps": report.inner_steps,
            "gradient_evals": report.gradient_evals,
            "wall_s": report.wall_s,
            "outer_loss": report.outer_loss if finite else math.nan,
            "best_outer_loss": math.nan if best is None else best.outer_loss,
            **{name: getattr(report, name) for name in TRUST},
            "status": report.status,
            "failure": "" if finite else "non-finite outer loss",
            **hparam_columns(report.hparams),
        }


def better(report: Report, best: Report | None) -> bool:
    """Whether a report is a complete, finite run, lower than the best or returned."""
    return report.scores and (
        best is None or report.returned or report.outer_loss < best.outer_loss
    )
