"""Hypergradient descent while training goes on."""

import math
from collections.abc import Generator, Iterator

import torch
from torch import Tensor

from raymeta.hypergrad import Estimator, Rollout
from raymeta.hypergrad.base import with_steps
from raymeta.outer.adam import ClippedAdam
from raymeta.outer.coordinates import Coordinates
from raymeta.outer.report import Ledger, Report, Schedule
from raymeta.problem import BilevelProblem

#: Length of one hyper-step in each unconstrained coordinate.
HYPER_LR = 0.2
#: How it shrinks after a training run that was no better than the best.
SHRINK = 0.8
#: Standard deviation of a step out of where the first estimate diverges; it doubles.
ESCAPE = 0.7


class OnlineDescent:
    """Descends while training goes on; runs again and again from what was learnt.

    Every estimate is followed by one hyper-step. A better run moves the start of the
    next one to its own mean λ; after a worse one the hyper learning rate shrinks, so
    that runs tend to training at the best λ found. As long as no run has ended better
    than it began, the next one goes on from where the last one led.
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
        self._hyper_lr = HYPER_LR if hyper_lr is None else hyper_lr
        self._adam = ClippedAdam(self._hyper_lr)
        self._random = torch.Generator().manual_seed(seed)
        self._length, self._way = ESCAPE, torch.zeros(())
        self._visited: list[tuple[int, Tensor]] = []
        self._cost = self.run_cost

    def reports(self) -> Iterator[Report]:
        """Run until the next training run would exceed the budget."""
        start, best = self._coordinates.start(), math.inf
        while self._ledger.covers(self._cost):
            value = yield from self._run(start)
            if value == math.inf:
                # The moments of a diverging run would dwarf all later gradients.
                self._adam = ClippedAdam(self._hyper_lr)
            if value < best:
                start, best = self._mean(), value
            elif best < math.inf:
                self._hyper_lr *= SHRINK
            else:
                start = self._go_on()

    def _run(self, x: Tensor) -> Generator[Report, None, float]:
        """One training run from x; returns E(s_T), or ∞ if it is above the first E."""
        coordinates = self._coordinates
        rollout = self._estimator.init(self._problem, coordinates.hparams(x))
        self._adam.lr, self._visited = self._hyper_lr, []
        first = value = math.inf
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
            if len(self._visited) == 1:
                first = value
            x = self._adam.step(x, coordinates.gradient(x, hyper.grads))
            x = coordinates.project(x)
        return value if value < first else math.inf

    def _go_on(self) -> Tensor:
        """Where to start after diverging, finitely or not: where that run led.

        The hyper learning rate shrinks where it leads back. A run that diverged within
        its first estimate leads nowhere: then another point is tried.
        """
        x, way = self._visited[-1][1], self._visited[-1][1] - self._visited[0][1]
        if (way * self._way).sum() < 0:
            self._hyper_lr *= SHRINK
        self._way = way
        if len(self._visited) == 1:
            noise = torch.randn(x.shape, generator=self._random, dtype=x.dtype)
            x = self._coordinates.project(x + self._length * noise)
            self._length *= 2
        return x

    def _next(self, rollout: Rollout) -> Estimator:
        """The estimator, cut to what is left of the run."""
        left = self._horizon - rollout.step
        return with_steps(self._estimator, min(self._estimator.steps, left))

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
            last = with_steps(self._estimator, left)
            cost += last.cost(self._problem, hparams)
        return cost
