"""Hypergradient descent while training goes on."""

import math
from collections.abc import Generator, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from raymeta.hypergrad import Estimator, Rollout
from raymeta.outer.adam import ClippedAdam
from raymeta.outer.coordinates import Coordinates
from raymeta.outer.report import Ledger, Report, Schedule
from raymeta.problem import BilevelProblem

#: Length of one hyper-step in each unconstrained coordinate.
HYPER_LR = 0.2
#: How it shrinks after a training run that was no better than the best.
SHRINK = 0.8


class OnlineDescent:
    """Descends while training goes on; runs again and again from what was learnt.

    Every estimate is followed by one hyper-step. A better run moves the start of the
    next one to its own mean λ; after a worse one the hyper learning rate shrinks, so
    that runs tend to training at the best λ found.
    """

    def __init__(
        self,
        problem: BilevelProblem,
        coordinates: Coordinates,
        estimator: Estimator,
        *,
        horizon: int,
        budget: float,
        seed: int,
        hyper_lr: float | None,
    ) -> None:
        self._problem, self._coordinates = problem, coordinates
        self._estimator, self._horizon = estimator, horizon
        self._ledger = Ledger(budget)
        self._adam = ClippedAdam(HYPER_LR if hyper_lr is None else hyper_lr)
        self._visited: list[tuple[int, Tensor]] = []
        self._cost = self.run_cost

    def reports(self) -> Iterator[Report]:
        """Run until the next training run would exceed the budget."""
        start, best = self._coordinates.start(), math.inf
        while self._ledger.covers(self._cost):
            value = yield from self._run(start)
            if value < best:
                start, best = self._mean(), value
            else:
                if best == math.inf:
                    start = self._visited[-1][1]
                self._adam.lr *= SHRINK

    def _run(self, x: Tensor) -> Generator[Report, None, float]:
        """One training run from x; returns E(s_T), or ∞ for a diverged one."""
        coordinates = self._coordinates
        rollout = self._estimator.init(self._problem, coordinates.hparams(x))
        self._visited = []
        value = math.inf
        while rollout.step < self._horizon:
            hparams = coordinates.hparams(x)
            before = rollout.step
            hyper, rollout = self._next(rollout).estimate(
                self._problem, hparams, rollout
            )
            self._ledger.charge(hyper.gradient_evals)
            self._visited.append((rollout.step - before, x))
            value = float(hyper.outer_loss)
            yield self._report(x, value, rollout)
            if not math.isfinite(value):
                return math.inf
            x = self._adam.step(x, coordinates.gradient(x, hyper.grads))
            x = coordinates.project(x)
        return value

    def _next(self, rollout: Rollout) -> Estimator:
        """The estimator, cut to what is left of the run."""
        left = self._horizon - rollout.step
        return _with_steps(self._estimator, min(self._estimator.steps, left))

    def _report(self, x: Tensor, value: float, rollout: Rollout) -> Report:
        flat = self._coordinates.flat(x)
        if rollout.step < self._horizon:
            return self._ledger.report(rollout.step, value, flat)
        schedule: Schedule = [
            (steps, self._coordinates.flat(visited)) for steps, visited in self._visited
        ]
        return self._ledger.report(rollout.step, value, flat, (rollout.state, schedule))

    def _mean(self) -> Tensor:
        return torch.stack([x for _, x in self._visited]).mean(dim=0)

    @property
    def run_cost(self) -> float:
        """Charge for one complete training run."""
        hparams = self._coordinates.hparams(self._coordinates.start())
        steps = self._estimator.steps
        whole, left = divmod(self._horizon, steps)
        cost = whole * self._estimator.cost(self._problem, hparams)
        if left:
            last = _with_steps(self._estimator, left)
            cost += last.cost(self._problem, hparams)
        return cost


def _with_steps(estimator: Estimator, steps: int) -> Estimator:
    return replace(estimator, steps=steps)  # type: ignore[type-var]
