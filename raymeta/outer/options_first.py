"""Descent where options are tried first, for many hyperparameters."""

import logging
import math
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from raymeta.errors import one_line
from raymeta.outer.coordinates import Coordinates
from raymeta.outer.mixed_coordinates import MixedCoordinates
from raymeta.outer.offline import OfflineDescent
from raymeta.outer.report import Report
from raymeta.outer.trust import Evaluated
from raymeta.outer.whole_runs import WholeRunDescent
from raymeta.problem import BilevelProblem
from raymeta.space import Space
from raymeta.types import Hparams

_log = logging.getLogger(__name__)

#: Part of the budget that plain runs at other options may take.
SHARE = 1 / 3


@dataclass(kw_only=True)
class OptionsFirstDescent(WholeRunDescent):
    """Options by plain runs, choice after choice, then `OfflineDescent` at the best.

    A plain run at the start; then one at each other option of each choice, all else
    being at its start, for up to a third of the budget. What is better is kept where
    the next choice is tried. With the rest of the budget, continuous hyperparameters
    descend at the best options found, or at the next best where hypergradients are
    refused there. Which options are better after that descent is
    not looked at.

    Attributes: see `HyperDescent`.
        space: the space with its choices.
        problem_of: the problem at the options of λ.
    """

    looks_beside: ClassVar[bool] = False

    coordinates: MixedCoordinates
    space: Space
    problem_of: Callable[[Hparams], BilevelProblem]

    @property
    def run_cost(self) -> float:
        """Charge for one run of the descent at the initial options."""
        return self._inner(self.coordinates.start(), math.inf).run_cost

    def _problem_at(self, hparams: Hparams) -> BilevelProblem:
        return self.problem_of(hparams)

    def _descent(self) -> Iterator[Report]:
        points = [self._best]
        if self._meter.covers(self.run_cost + self._plain_cost(self.horizon)):
            value = yield from self._plain(self.coordinates.start(), self.horizon)
            points = [Evaluated(self.coordinates.start(), value, None)]
            points += yield from self._options()
        points.sort(key=lambda point: point.value)
        while True:
            try:
                yield from self._descend_at(points.pop(0).x)
                return
            except ValueError as refusal:  # as where E does not depend on λ there
                if not points:
                    raise
                _log.warning("other options, for here %s", one_line(refusal))

    def _options(self) -> Generator[Report, None, list[Evaluated]]:
        """Each option of each choice by itself, as far as the budget goes."""
        points = []
        for name, choice in self.coordinates.choices.items():
            for number in range(len(choice.options)):
                x = self.coordinates.with_option(self._best.x, name, number)
                if not bool((x == self._best.x).all()) and self._tries(x):
                    value = yield from self._plain(x, self.horizon)
                    points.append(Evaluated(x, value, None))
        return points

    def _tries(self, x: Tensor) -> bool:
        """Whether the budget has a plain run for a point, and the descent after it."""
        cost = self._plain_cost(self.horizon, x)
        room = self._meter.spent + cost <= SHARE * self.budget
        return room and self._meter.covers(cost + self._inner(x, math.inf).sure_cost)

    def _descend_at(self, x: Tensor) -> Generator[Report, None, None]:
        spent, reported = self._meter.spent, self._meter.reports
        for report in self._inner(x, self.budget - spent).reports():
            self._meter.charge(spent + report.gradient_evals - self._meter.spent)
            self._meter.reports = reported + report.outer_step
            yield report._replace(
                gradient_evals=self._meter.spent, outer_step=self._meter.reports
            )

    def _inner(self, x: Tensor, budget: float) -> OfflineDescent:
        """The descent at the options of x, from its start."""
        hparams = self.coordinates.hparams(x)
        problem, space = self._problem_at(hparams), self.space.at(hparams)
        settings: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("estimator", "horizon", "seed", "hyper_lr", "evaluator")
        }
        return OfflineDescent(
            problem=problem,
            coordinates=Coordinates(space, problem.device),
            budget=budget,
            **settings,
        )
