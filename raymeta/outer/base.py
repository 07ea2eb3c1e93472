"""Base class of the hypergradient descents."""

import math
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from raymeta.hypergrad import Estimator
from raymeta.hypergrad.base import plain_cost
from raymeta.outer.budget import BudgetMeter
from raymeta.outer.coordinates import Coordinates
from raymeta.outer.evaluator import DIRECT, Evaluator
from raymeta.outer.report import Report
from raymeta.problem import BilevelProblem
from raymeta.types import State

#: Standard deviation of a trial near the best point; the next is nearer, to the least.
NEARBY, NEARER, NEAREST = 0.3, 0.9, 0.1
#: Beyond this many coordinates trials are not farther away, for all n of them together.
NEARBY_DIMENSIONS = 8
#: Where E is flat they are, up to this many times.
FARTHEST = 10.0


class Evaluated(NamedTuple):
    """A point, and what is known about it.

    Attributes:
        x: where it is.
        value: E there.
        gradient: dE/dx there, None where it is not known.
    """

    x: Tensor
    value: float
    gradient: Tensor | None


@dataclass(kw_only=True)
class HyperDescent(ABC):
    r"""A walk in a search space by hypergradients, within a budget.

    Where hypergradients lead no further, `_local_search` tries random points near the
    best one by plain runs, which cost a third of a hypergradient, until one is better.
    What is looked at over the whole horizon before anything else is the start, so that
    what is found is never worse than it.

    A descent that says which coordinates matter (`_update_sensitivity`) looks in
    coordinate i at a distance proportional to $|\partial E/\partial x_i|^{-1/2}$, for
    where E is flat only what is far away makes a difference.

    Attributes:
        problem: one sample of a task.
        coordinates: where to walk.
        estimator: how to differentiate.
        horizon: T, the training steps of a full run.
        budget: gradient evaluations; never exceeded.
        seed: seeds every random draw of this descent.
        hyper_lr: first length of a step in each coordinate; None for the descent's own.
        evaluator: computes what is evaluated, or remembers it.
    """

    problem: BilevelProblem
    coordinates: Coordinates
    estimator: Estimator
    horizon: int
    budget: float
    seed: int
    hyper_lr: float | None
    evaluator: Evaluator = DIRECT

    def __post_init__(self) -> None:
        """Open the meter, seed the random numbers, know nothing better than x_0."""
        self._meter = BudgetMeter(self.budget)
        self._random = torch.Generator().manual_seed(self.seed)
        self._best = Evaluated(self.coordinates.start(), math.inf, None)
        self._nearby = NEARBY
        self._shares = torch.ones_like(self._best.x)

    @property
    @abstractmethod
    def run_cost(self) -> float:
        """Charge for one complete training run with hypergradients."""

    @property
    def sure_cost(self) -> float:
        """Charge for such a run that also leaves E at the start known."""
        return self.run_cost

    @abstractmethod
    def reports(self) -> Iterator[Report]:
        """Descend until nothing more is covered by the budget."""

    def _local_search(
        self, tries: float = math.inf
    ) -> Generator[Report, None, Evaluated | None]:
        """A point that is better than the best one; None if none is found in time."""
        centre, best, _ = self._best
        shared = min(1.0, (NEARBY_DIMENSIONS / centre.numel()) ** 0.5)
        far = self._shares.rsqrt().clamp(max=FARTHEST)
        while tries > 0 and self._meter.covers(self._plain_cost(self.horizon)):
            tries -= 1
            x = self._perturbed(centre, self._nearby * shared * far)
            value = yield from self._plain(x, self.horizon)
            if value < best:
                self._nearby = NEARBY
                return Evaluated(x, value, None)
            nearer = max(self._nearby * NEARER, NEAREST)
            self._nearby = nearer if best < math.inf else 2 * self._nearby
        return None

    def _update_sensitivity(self, gradient: Tensor) -> None:
        """Remember which coordinates the latest dE/dx says matter."""
        if largest := float(gradient.abs().max()):
            self._shares = gradient.abs() / largest

    def _perturbed(self, x: Tensor, length: float | Tensor) -> Tensor:
        """A point near x, normally distributed with this standard deviation."""
        noise = torch.randn(x.shape, generator=self._random, dtype=x.dtype)
        return self.coordinates.project(x + length * noise)

    def _plain(self, x: Tensor, horizon: int) -> Generator[Report, None, float]:
        """E over a horizon, without gradient; ∞ where the run diverged."""
        hparams = self.coordinates.hparams(x)
        state, value = self.evaluator.plain_run(self.problem, hparams, horizon)
        self._meter.charge(self._plain_cost(horizon))
        yield self._at_constant(x, value, horizon, state)
        return self._finite(x, value, horizon)

    def _finite(self, x: Tensor, value: float, horizon: int) -> float:
        """The value, ∞ for a diverged run; the best point over T is remembered."""
        value = value if math.isfinite(value) else math.inf
        if horizon == self.horizon and value < self._best.value:
            self._best = Evaluated(x, value, None)
        return value

    def _at_constant(
        self, x: Tensor, value: float, horizon: int, state: State
    ) -> Report:
        point = self.coordinates.point(x)
        if horizon < self.horizon:
            return self._meter.report(horizon, value, point)
        schedule = [(horizon, point)]
        return self._meter.report(
            horizon, value, point, complete=True, state=state, schedule=schedule
        )

    def _plain_cost(self, horizon: int) -> float:
        return plain_cost(self.problem, horizon)
