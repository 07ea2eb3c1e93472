"""Metrics of a trial as Tune, its callbacks and its data frames have them."""

import math
from typing import Any

from raymeta.outer.report import Report
from raymeta.results.schema import hparam_columns


class TrialMetrics:
    """Plain numbers of a trial's reports, by the frame's names.

    Attributes:
        best: lowest finite outer loss of a full run so far, NaN before the first.
    """

    def __init__(self, flops: float) -> None:
        """Start a trial; `flops` are those of one gradient evaluation."""
        self.best, self._flops = math.nan, flops

    def of(self, report: Report) -> dict[str, Any]:
        """Of a report: what the trial has spent, reached, and where λ is."""
        if report.scores and not self.best <= report.outer_loss:  # also when it is NaN
            self.best = float(report.outer_loss)
        return {
            "outer_loss": float(report.outer_loss),
            "best_outer_loss": self.best,
            "inner_steps": int(report.inner_steps),
            "gradient_evals": float(report.gradient_evals),
            "flops": float(report.gradient_evals) * self._flops,
            "wall_s": report.wall_s,
            **report.metrics,
            **hparam_columns(report.hparams),
        }
