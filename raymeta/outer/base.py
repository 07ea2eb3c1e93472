"""Base class of the hypergradient descents."""

import math
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from raymeta.hypergrad import Estimator
from raymeta.hypergrad.base import plain_cost
from raymeta.outer.budget import BudgetMeter
from raymeta.outer.coordinates import Coordinates
from raymeta.outer.evaluator import DIRECT, Evaluator
from raymeta.outer.mixed_coordinates import MixedCoordinates
from raymeta.outer.report import Report
from raymeta.outer.trust import Evaluated, TrustRecord
from raymeta.problem import BilevelProblem
from raymeta.types import Hparams, State

#: Standard deviation of a trial near the best point; the next is nearer, to the least.
NEARBY, NEARER, NEAREST = 0.3, 0.9, 0.1
#: Beyond this many coordinates trials are not farther away, for all n of them together.
NEARBY_DIMENSIONS = 8
#: Where E is flat they are, up to this many times.
FARTHEST = 10.0
#: Least distance of a look beside a point, in the coordinate where E is steepest; a
#: point three times as far away is another one.
BESIDE, ELSEWHERE = 0.03, 0.09
#: Plain runs that are kept for such looks, where the budget holds many. Four, of which
#: the descent lacks two, led to worse points in 35 of 78 tasks × seeds, two in 27.
LOOKS, MANY = 2, 10


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

    The last runs of the budget look beside what was found (`_look_beside`). How far
    values over the whole horizon confirm slopes is recorded, and stands in the reports
    (`TrustRecord`).

    Attributes:
        problem: one sample of a task.
        coordinates: where to walk.
        estimator: how to differentiate.
        horizon: T, the training steps of a full run.
        budget: gradient evaluations; never exceeded.
        seed: seeds every random draw of this descent.
        hyper_lr: first length of a step in each coordinate; None for the descent's own.
        evaluator: computes what is evaluated, or remembers it.
        known: what was seen over T before, without charge here, in order; the descent
            begins at the best of it, and no search comes first.
        looks_beside: whether its last runs look beside what was found.
    """

    looks_beside: ClassVar[bool] = True

    problem: BilevelProblem
    coordinates: Coordinates | MixedCoordinates
    estimator: Estimator
    horizon: int
    budget: float
    seed: int
    hyper_lr: float | None
    evaluator: Evaluator = DIRECT
    known: tuple[Evaluated, ...] = ()

    def __post_init__(self) -> None:
        """Open the meter, seed the random numbers, know nothing better than x_0."""
        self._meter = BudgetMeter(self.budget)
        self._random = torch.Generator().manual_seed(self.seed)
        self._best = Evaluated(self.coordinates.start(), math.inf, None)
        self._record = TrustRecord()
        for seen in self.known:
            self._recorded(seen.x, seen.value, self.horizon)
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

    def reports(self) -> Iterator[Report]:
        """Descend, and look beside what was found, within the budget."""
        plain = self._plain_cost(self.horizon)
        looks = LOOKS * plain
        many = self.looks_beside and self.budget >= MANY * plain
        if not (many and self._meter.covers(self.sure_cost + looks)):
            looks = 0.0
        self._meter.budget -= looks
        yield from self._descent()
        self._meter.budget = self.budget
        if looks and self._best.value < math.inf:
            yield from self._look_beside()

    @abstractmethod
    def _descent(self) -> Iterator[Report]:
        """Descend until nothing more is covered by what the budget has for it."""

    def _look_beside(self) -> Generator[Report, None, None]:
        """What lies on both sides of the best point, where E is steepest.

        A better side becomes the best. Where both are worse than another point and than
        what was seen near that one, the best was a lucky point: the other is returned,
        the lowest of them.
        """
        best, sides = self._best, []
        for offset in (-BESIDE, BESIDE):
            x = self._offset(best.x, offset)
            if bool((x != best.x).any()) and self._affords(x):  # within the bounds
                sides.append((yield from self._beside(best, x, offset)))
        least = min(sides, default=-math.inf)
        rivals = self._confirmed(least, best) if least > best.value else []
        if rivals:
            rival = min(rivals, key=lambda point: point.value)
            hparams = self.coordinates.hparams(rival.x)
            # For the state, so it is not charged: E is known.
            problem = self._problem_at(hparams)
            state, value = self.evaluator.plain_run(problem, hparams, self.horizon)
            report = self._at_constant(rival.x, value, self.horizon, state)
            yield report._replace(returned=True)

    def _beside(
        self, best: Evaluated, x: Tensor, offset: float
    ) -> Generator[Report, None, float]:
        """E at a point beside the best one."""
        return (yield from self._plain(x, self.horizon, offset))

    def _slope_near(self, x: Tensor) -> Tensor | None:
        """The slope that is known nearest to x; None where none is."""
        return self._record.nearest_slope(x)

    def _offset(self, centre: Tensor, offset: float) -> Tensor:
        """A point so far uphill from another, in the coordinate where E is steepest."""
        slope = self._slope_near(centre)
        way = self._from_start(centre) if slope is None else slope
        largest = float(way.abs().max())
        way = way / largest if largest else torch.ones_like(way)
        return self.coordinates.project(centre + offset * way)

    def _from_start(self, x: Tensor) -> Tensor:
        return x - self.coordinates.start()

    def _confirmed(self, value: float, best: Evaluated) -> list[Evaluated]:
        """Points elsewhere that are below this value, and nearby was another one.

        None of them is worse than the start.
        """
        points = [
            point
            for point in self._record.points
            if point.value < value and _distance(point, best) > ELSEWHERE
        ]
        return [
            point
            for point in points
            if point.value <= self._record.first
            and any(0 < _distance(point, other) < NEARBY for other in points)
        ]

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

    def _plain(
        self, x: Tensor, horizon: int, offset: float = math.nan
    ) -> Generator[Report, None, float]:
        """E over a horizon, without gradient; ∞ where the run diverged."""
        hparams = self.coordinates.hparams(x)
        problem = self._problem_at(hparams)
        state, value = self.evaluator.plain_run(problem, hparams, horizon)
        self._meter.charge(plain_cost(problem, horizon))
        found = self._recorded(x, value, horizon)
        yield self._at_constant(x, value, horizon, state)._replace(offset=offset)
        return found

    def _recorded(
        self, x: Tensor, value: float, horizon: int, gradient: Tensor | None = None
    ) -> float:
        """The value, ∞ for a diverged run; what is seen over T is remembered."""
        value = value if math.isfinite(value) else math.inf
        if horizon == self.horizon:
            self._record.add(Evaluated(x, value, gradient))
            if value < self._best.value:
                self._best = Evaluated(x, value, None)
        return value

    def _at_constant(
        self, x: Tensor, value: float, horizon: int, state: State
    ) -> Report:
        point, complete = self.coordinates.point(x), horizon == self.horizon
        report = self._meter.report(
            horizon,
            value,
            point,
            complete=complete,
            state=state if complete else None,
            schedule=[(horizon, point)] if complete else None,
        )
        return self._with_trust(report)

    def _with_trust(self, report: Report) -> Report:
        """A report, with how far slopes have been confirmed until then."""
        return report._replace(**self._record.trust._asdict())

    def _problem_at(self, hparams: Hparams) -> BilevelProblem:
        """What is trained at the options of λ."""
        return self.problem

    def _affords(self, x: Tensor) -> bool:
        """Whether a plain run there is covered, whatever its options cost."""
        return self._meter.covers(self._plain_cost(self.horizon, x))

    def _plain_cost(self, horizon: int, x: Tensor | None = None) -> float:
        """Charge for a plain run, at the initial options unless at those of x."""
        if x is not None:
            return plain_cost(self._problem_at(self.coordinates.hparams(x)), horizon)
        return plain_cost(self.problem, horizon)


def _distance(one: Evaluated, other: Evaluated) -> float:
    return float((one.x - other.x).abs().max())
