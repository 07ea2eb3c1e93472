"""Hypergradient descent within one training run: the loop of all online descents."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from torch import Tensor

from raymeta.hypergrad import Estimator, Forward, Rollout, ShortTerm
from raymeta.hypergrad.base import plain_cost, whole_loss_cost, with_steps
from raymeta.outer.budget import BudgetMeter
from raymeta.outer.coordinates import Coordinates
from raymeta.outer.evaluator import DIRECT, Evaluator, Trained
from raymeta.outer.report import Report, outer_value
from raymeta.outer.steps.adam import AdamState, ClippedAdam
from raymeta.problem import BilevelProblem, ValidationLoss


class OnlineState(NamedTuple):
    """Where a run that learns its own hyperparameters stands: all that it goes on from.

    Attributes:
        rollout: training, (s_t, t).
        x: λ, in coordinates, shape (n,).
        adam: the state of the hyper-optimizer.
    """

    rollout: Rollout
    x: Tensor
    adam: AdamState


class OnlineStep(NamedTuple):
    """Some training steps, the estimate after them, and a hyper-step.

    Attributes:
        x: λ of these training steps, in coordinates.
        value: E at their end; where the estimator looks at a batch of validation
            examples (`ShortTerm.val_share`), the mean over these.
        gradient_evals: what the estimate cost.
        state: where the run stands after the hyper-step; there is none where it has
            diverged.
    """

    x: Tensor
    value: float
    gradient_evals: float
    state: OnlineState


@dataclass(frozen=True, kw_only=True)
class OnlineRun:
    """One training run, each estimate on the way followed by one hyper-step.

    Attributes:
        problem: what is trained.
        coordinates: where to walk, at fixed choices.
        estimator: one that looks ahead while training goes on.
        horizon: T, the training steps of a full run.
        evaluator: computes what is evaluated, or remembers it.
        adam: how λ steps.

    Several runs are one where x has a row for each, shape (N, n), and the problem is
    `raymeta.hypergrad.batched_problem.stacked`: they end together, diverged or not.

    Source: Franceschi et al. 2017 (RTHO); Baydin et al. 2018.
    """

    problem: BilevelProblem
    coordinates: Coordinates
    estimator: Estimator
    horizon: int
    evaluator: Evaluator = DIRECT
    adam: ClippedAdam = field(default_factory=ClippedAdam)

    def begin(self, x: Tensor, adam: AdamState | None = None) -> OnlineState:
        """At s_0(λ), before the first step.

        Args:
            x: λ, in coordinates.
            adam: what the hyper-optimizer goes on from; by default from nothing.
        """
        rollout = self.estimator.init(self.problem, self.coordinates.hparams(x))
        return OnlineState(rollout, x, adam or self.adam.init(x))

    def steps(self, state: OnlineState, end: int) -> Iterator[OnlineStep]:
        """Train and descend until step `end`, or until the run diverges."""
        finite = True
        while state.rollout.step < end and finite:
            x = state.x
            estimator = self._at(end - state.rollout.step)
            hyper, rollout = self.evaluator.estimate(
                estimator, self.problem, self.coordinates.hparams(x), state.rollout
            )
            state = state._replace(rollout=rollout)
            value = float(hyper.outer_loss)
            finite = math.isfinite(value) or x.dim() > 1
            if finite:
                gradient = self.coordinates.gradient(x, hyper.grads)
                moved, adam = self.adam.update(gradient, state.adam, x)
                state = OnlineState(rollout, self.coordinates.project(moved), adam)
            yield OnlineStep(x, value, hyper.gradient_evals, state)

    def reports(
        self, state: OnlineState, rungs: tuple[int, ...], factor: float = 1.0
    ) -> Iterator[tuple[Report, OnlineState]]:
        """Train and descend; a report at each rung, or where the run diverges.

        Args:
            state: where to start, below all rungs.
            rungs: increasing numbers of training steps; estimates are cut at each.
            factor: multiplies the hyper learning rate.

        Yields:
            (report, where the run stands). The report of step T is complete; its loss
            is that of the schedule of λ that led there, its λ the schedule's last.
        """
        lr = self.adam.lr * factor
        state = state._replace(adam=state.adam._replace(lr=lr))
        meter = BudgetMeter(math.inf)
        for rung in rungs:
            for step in self.steps(state, rung):
                meter.charge(step.gradient_evals)
            value, charge = self.outer_loss(step)
            meter.charge(charge)
            (at, t, _), state = step.state.rollout, step.state
            point, complete = self.coordinates.point(step.x), t == self.horizon
            report = meter.report(t, value, point, complete=complete, state=at)
            yield report, state
            if not math.isfinite(value):
                return

    def outer_loss(self, step: OnlineStep) -> tuple[float, float]:
        """E over all validation examples, and the charge for what is not known yet.

        Args:
            step: where; one of `steps`.
        """
        charge = self.outer_loss_charge
        if not charge or not math.isfinite(step.value):
            return step.value, 0.0
        hparams, rollout = self.coordinates.hparams(step.x), step.state.rollout

        def evaluate() -> Trained:
            value = outer_value(self.problem, rollout.state, hparams)
            return rollout.state, [value]

        _, (value,) = self.evaluator.run(hparams, rollout.step, evaluate, rollout)
        return value, charge

    @property
    def whole(self) -> "OnlineRun":
        """The same run, whose estimates look at as much of E as the problem says."""
        if isinstance(self.estimator, ShortTerm | Forward):
            return replace(self, estimator=replace(self.estimator, val_share=None))
        return self

    @property
    def outer_loss_charge(self) -> float:
        """Charge for E where estimates look at a batch of it, else 0."""
        batches = isinstance(self.problem.outer_loss, ValidationLoss)
        if batches and self.whole.estimator != self.estimator:
            return plain_cost(self.problem, 0)
        return whole_loss_cost(self.problem)

    def charges(self, rungs: tuple[int, ...]) -> tuple[float, ...]:
        """Gradient evaluations up to the first rung, from there to the second, ….

        Args:
            rungs: see `reports`.
        """
        hparams = self.coordinates.hparams(self.coordinates.start())
        charges = []
        for start, end in zip((0, *rungs), rungs, strict=False):
            whole, left = divmod(end - start, self.estimator.steps)
            charge = whole * self.estimator.cost(self.problem, hparams)
            if left:
                charge += self._at(left).cost(self.problem, hparams)
            charges.append(charge + self.outer_loss_charge)
        return tuple(charges)

    def _at(self, left: int) -> Estimator:
        """The estimator, cut to what is left of the run."""
        return with_steps(self.estimator, min(self.estimator.steps, left))
