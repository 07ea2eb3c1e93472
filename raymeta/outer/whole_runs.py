"""Base class of the descents whose evaluations are whole training runs."""

import math
from collections.abc import Generator

import torch
from torch import Tensor

from raymeta.hypergrad import Estimator, Hypergradient, Rollout
from raymeta.hypergrad.base import whole_loss_cost, with_steps
from raymeta.outer.base import HyperDescent
from raymeta.outer.evaluator import Trained
from raymeta.outer.report import Report, outer_value
from raymeta.types import Hparams


class WholeRunDescent(HyperDescent):
    """A descent by hypergradients of runs from s_0, each at one λ."""

    @property
    def run_cost(self) -> float:
        """Charge for one complete estimate."""
        return self._cost(self.horizon)

    def _estimate(
        self, x: Tensor, horizon: int
    ) -> Generator[Report, None, tuple[float, Tensor]]:
        """E and dE/dx over a horizon; ∞ and zero where the run diverged."""
        hparams = self.coordinates.hparams(x)
        estimator, problem = self._at(horizon), self._problem_at(hparams)
        rollout = estimator.init(problem, hparams)
        try:
            hyper, rollout = self.evaluator.estimate(
                estimator, problem, hparams, rollout
            )
        except OverflowError:  # arithmetic without ∞ (Reversible): the run diverged
            self._meter.charge(estimator.cost(problem, hparams))
            found = self._recorded(x, math.inf, horizon)
            yield self._at_constant(x, math.inf, horizon, rollout.state)
            return found, torch.zeros_like(x)
        self._meter.charge(hyper.gradient_evals)
        value = self._whole_loss(hyper, hparams, rollout)
        gradient = self.coordinates.gradient(x, hyper.grads)
        found = self._recorded(x, value, horizon, gradient)
        yield self._at_constant(x, value, horizon, rollout.state)
        return found, gradient

    def _whole_loss(
        self, hyper: Hypergradient, hparams: Hparams, rollout: Rollout
    ) -> float:
        """E over all validation examples, whatever the estimate looked at."""
        problem = self._problem_at(hparams)
        charge, value = whole_loss_cost(problem), float(hyper.outer_loss)
        if not charge or not math.isfinite(value):
            return value

        def evaluate() -> Trained:
            state = rollout.state
            return state, [outer_value(problem, state, hparams)]

        _, (value,) = self.evaluator.run(hparams, rollout.step, evaluate, rollout)
        self._meter.charge(charge)
        return value

    def _at(self, horizon: int) -> Estimator:
        return with_steps(self.estimator, horizon)

    def _cost(self, horizon: int, x: Tensor | None = None) -> float:
        """Charge for an estimate, at the start unless at another point."""
        at = self.coordinates.start() if x is None else x
        hparams = self.coordinates.hparams(at)
        problem = self._problem_at(hparams)
        return self._at(horizon).cost(problem, hparams) + whole_loss_cost(problem)
