"""Warm restarts of a hybrid: where its runs begin after the search."""

import math
from dataclasses import dataclass

from raymeta.space import Point

#: How hyper-steps shrink after a run that was no better than the best.
SHRINK = 0.8
#: So many of them in a row, and the next run begins at the best point again.
PATIENCE = 2


@dataclass
class WarmRestarts:
    """Runs one after another, each from where the one before led.

    One that is no better than the best is gone on from once, for λ may lead through
    worse ones, with shorter hyper-steps; after another, it is back to the best point.

    Attributes:
        point: λ where the best run ended.
        best: its outer loss.
        factor: multiplies the hyper learning rate of the next run.
    """

    point: Point
    best: float
    factor: float = 1.0

    def __post_init__(self) -> None:
        """Begin there."""
        self.next, self._worse = self.point, 0

    def add(self, value: float, end: Point) -> None:
        """Take in a run.

        Args:
            value: its outer loss; ∞ where it diverged.
            end: λ where it ended.
        """
        if value < self.best:
            self.best, self._worse = value, 0
            self.point = self.next = end
            return
        self.factor *= SHRINK
        self._worse += 1
        back = self._worse == PATIENCE or value == math.inf
        self.next = self.point if back else end
        if back:
            self._worse = 0
