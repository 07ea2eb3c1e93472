"""Hypergradient descent within one training run: the loop of all online descents."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple, cast

from torch import Tensor

from raymeta.hypergrad import Estimator, Forward, Rollout, ShortTerm
from raymeta.hypergrad.base import plain_cost, whole_loss_cost, with_steps
from raymeta.outer.coordinates import Coordinates
from raymeta.outer.evaluator import DIRECT, Evaluator, Trained
from raymeta.outer.look_ahead import ComparedLooks, LookAhead
from raymeta.outer.report import outer_value
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
        agreement: of a look that was compared with a shorter one, from -1 to 1, where
            derivatives by all hyperparameters have the same sign; else NaN.
        state: where the run stands after the hyper-step; there is none where it has
            diverged.
    """

    x: Tensor
    value: float
    gradient_evals: float
    state: OnlineState
    agreement: float = math.nan


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
        look: how far the estimator looks ahead, where some looks are compared with
            longer ones; None for always as far as it says.

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
    look: LookAhead | None = None

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
            estimator = self._at(state.rollout.step, end)
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
            compared = isinstance(estimator, ComparedLooks)
            opposite = cast(float, hyper.residual) if compared else math.nan
            charge, agreement = hyper.gradient_evals, 1 - 2 * opposite
            yield OnlineStep(x, value, charge, state, agreement)

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

    def charge(self, start: int, end: int) -> float:
        """Gradient evaluations from one training step to another, and E there."""
        hparams = self.coordinates.hparams(self.coordinates.start())
        charge, t = self.outer_loss_charge, start
        costs: dict[int, float] = {}  # by length: asking takes as long as a step
        while t < end:
            estimator = self._at(t, end)
            steps = estimator.steps
            if steps not in costs:
                costs[steps] = estimator.cost(self.problem, hparams)
            charge += costs[steps]
            t += steps
        return charge

    def _at(self, t: int, end: int) -> Estimator:
        """The estimator at step t, cut to what is left of the run."""
        steps = self.estimator.steps if self.look is None else self.look.length(t, end)
        if self.look is not None and steps > self.look.steps:
            assert isinstance(self.estimator, ShortTerm)
            short = with_steps(self.estimator, self.look.steps)
            return ComparedLooks(short, steps)
        return with_steps(self.estimator, min(steps, end - t))
