"""Hypergradient descent within one training run, to be left and taken up again."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from torch import Tensor

from raymeta.hypergrad import Estimator, Rollout
from raymeta.hypergrad.base import with_steps
from raymeta.outer.budget import BudgetMeter
from raymeta.outer.coordinates import Coordinates
from raymeta.outer.evaluator import DIRECT, Evaluator
from raymeta.outer.report import Report
from raymeta.outer.steps.adam import HYPER_LR, ClippedAdam
from raymeta.problem import BilevelProblem
from raymeta.types import Hparams


class OnlineState(NamedTuple):
    """Where a run that learns its own hyperparameters stands: all that it goes on from.

    Attributes:
        rollout: of the training, (s_t, t).
        x: λ, in coordinates.
        adam: what the hyper-optimizer remembers.
    """

    rollout: Rollout
    x: Tensor
    adam: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class OnlineRun:
    """One training run, each estimate on the way followed by one step of `ClippedAdam`.

    Attributes:
        problem: what is trained.
        coordinates: where to walk, at fixed choices.
        estimator: one that looks ahead while training goes on.
        horizon: T, the training steps of a full run.
        evaluator: compute what is evaluated, or remember it.

    Source: Franceschi et al. 2017 (RTHO); Baydin et al. 2018.
    """

    problem: BilevelProblem
    coordinates: Coordinates
    estimator: Estimator
    horizon: int
    evaluator: Evaluator = DIRECT

    def begin(self, hparams: Hparams) -> OnlineState:
        """At s_0(λ), before the first step."""
        x = self.coordinates.at(hparams)
        rollout = self.estimator.init(self.problem, self.coordinates.hparams(x))
        return OnlineState(rollout, x, _memory(ClippedAdam(HYPER_LR)))

    def go_on(
        self, standing: OnlineState, rungs: tuple[int, ...], factor: float = 1.0
    ) -> Iterator[tuple[Report, OnlineState]]:
        """Train on, and descend; a report at each rung, or where the run diverges.

        Args:
            standing: where to start, below all rungs.
            rungs: increasing numbers of training steps; estimates are cut at each.
            factor: by which the hyper learning rate is multiplied.

        Yields:
            (report, where the run stands). The report of step T is complete; its loss
            is that of the schedule of λ that led there, its λ the schedule's last.
        """
        rollout, x = standing.rollout, standing.x
        adam = ClippedAdam(HYPER_LR)
        for name, value in standing.adam.items():
            setattr(adam, name, value)
        adam.lr = HYPER_LR * factor
        meter = BudgetMeter(math.inf)
        for rung in rungs:
            value = math.nan
            flat: dict[str, Any] = {}
            while rollout.step < rung:
                hparams, flat = self.coordinates.hparams(x), self.coordinates.flat(x)
                estimator = self._at(rung - rollout.step)
                hyper, rollout = self.evaluator.estimate(
                    estimator, self.problem, hparams, rollout
                )
                meter.charge(hyper.gradient_evals)
                value = float(hyper.outer_loss)
                if not math.isfinite(value):
                    break
                gradient = self.coordinates.gradient(x, hyper.grads)
                x = self.coordinates.project(adam.step(x, gradient))
            report = meter.report(rollout.step, value, flat)._replace(
                complete=rollout.step == self.horizon, state=rollout.state
            )
            yield report, OnlineState(rollout, x, _memory(adam))
            if not math.isfinite(value):
                return

    def charges(self, rungs: tuple[int, ...]) -> tuple[float, ...]:
        """Gradient evaluations up to the first rung, from there to the second, ….

        Args:
            rungs: see `go_on`.
        """
        hparams = self.coordinates.hparams(self.coordinates.start())
        charges = []
        for start, end in zip((0, *rungs), rungs, strict=False):
            whole, left = divmod(end - start, self.estimator.steps)
            charge = whole * self.estimator.cost(self.problem, hparams)
            if left:
                charge += self._at(left).cost(self.problem, hparams)
            charges.append(charge)
        return tuple(charges)

    def _at(self, left: int) -> Estimator:
        return with_steps(self.estimator, min(self.estimator.steps, left))


def _memory(adam: ClippedAdam) -> dict[str, Any]:
    return {field.name: getattr(adam, field.name) for field in fields(adam)}
