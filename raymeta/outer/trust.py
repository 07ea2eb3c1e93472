"""Trust in hypergradients: how far values that were seen confirm slopes."""

import math
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

from torch import Tensor

#: So many of the latest points are kept: those before lie farther away than these.
KEPT = 32


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


class Trust(NamedTuple):
    r"""How far values over the whole horizon confirm slopes.

    Two evaluations, at x and x', are held against each other by
    $\bar g^\top(x - x')$, the change of E that slopes predict, with $\bar g$ the mean
    of those of both gradients that are known.

    Attributes:
        agreement: median of actual by predicted changes, the ratio of trust-region
            methods, over all evaluations with a gradient, each against the nearest one
            before it: 1 where slopes say what values do, about 0 or negative where they
            mislead; a run that diverges where E should fall counts as $-\infty$. In
            reports of online descents: of short looks with longer ones, see
            `OnlineStep.agreement`.
        roughness: median distance of E from what the evaluation nearest to it, before
            or after, predicts, by the median distance of E from its median, of the
            latest 32: 0 where what lies beside tells all, 1 where it tells no more than
            the median, as where E is rough, or bent within the distances seen.
        rejected: share of the evaluations after the first that were not below all
            before.

    Each is NaN where nothing is known yet.

    Source: Conn, Gould & Toint 2000, "Trust-region methods", section 6.1: the ratio.
    """

    agreement: float = math.nan
    roughness: float = math.nan
    rejected: float = math.nan


@dataclass
class _Kept:
    """An evaluation, and what the nearest one predicts of it."""

    own: Evaluated
    distance: float = math.inf
    error: float = math.nan


class TrustRecord:
    """What a descent has evaluated over the whole horizon.

    Attributes:
        ratios: of actual to predicted changes, in order, see `Trust`.
        first: E of the first evaluation, ∞ where it diverged; NaN before.
    """

    def __init__(self) -> None:
        self.ratios: list[float] = []
        self.first = math.nan
        self._kept: list[_Kept] = []
        self._count = self._improved = 0
        self._least = math.inf

    @property
    def points(self) -> list[Evaluated]:
        """The latest finite evaluations, in order."""
        return [kept.own for kept in self._kept]

    @property
    def trust(self) -> Trust:
        """What all evaluations say together."""
        agreement = median(self.ratios) if self.ratios else math.nan
        rejected = 1 - self._improved / self._count if self._count else math.nan
        return Trust(agreement, self._roughness(), rejected)

    def add(self, new: Evaluated) -> None:
        """Take in an evaluation, whose E may be ∞; of one point again, its gradient."""
        if math.isnan(self.first):
            self.first = new.value
        distances = [float((kept.own.x - new.x).norm()) for kept in self._kept]
        again = distances.index(0.0) if 0.0 in distances else None
        self._compare(new)
        if again is None:
            self._count += bool(distances)
            self._improved += bool(distances) and new.value < self._least
        elif new.gradient is None:
            return
        else:
            del self._kept[again], distances[again]
        if math.isfinite(new.value):
            self._least = min(self._least, new.value)
            self._keep(new, distances)

    def _keep(self, new: Evaluated, distances: list[float]) -> None:
        added = _Kept(new)
        for kept, distance in zip(self._kept, distances, strict=True):
            error = abs(new.value - kept.own.value - _predicted(new, kept.own))
            for one in (added, kept):
                if distance <= one.distance:
                    one.distance, one.error = distance, error
        self._kept = [*self._kept[1 - KEPT :], added]

    def nearest_slope(self, x: Tensor) -> Tensor | None:
        """The gradient that is known nearest to x; None where none is."""
        near = self._nearest_sloped(x)
        return None if near is None else near.gradient

    def _nearest_sloped(self, x: Tensor) -> Evaluated | None:
        sloped = [p for p in self.points if p.gradient is not None]
        return min(sloped, key=lambda p: float((p.x - x).norm()), default=None)

    def _compare(self, new: Evaluated) -> None:
        near, finite = self._nearest_sloped(new.x), math.isfinite(new.value)
        if near is None or (finite and new.gradient is None):
            return
        end = new if finite else new._replace(gradient=None)
        if predicted := _predicted(end, near):
            self.ratios.append((new.value - near.value) / predicted)

    def _roughness(self) -> float:
        values = [kept.own.value for kept in self._kept]
        if len(values) < 2:
            return math.nan
        middle = median(values)
        spread = median(abs(value - middle) for value in values)
        return (
            median(kept.error for kept in self._kept) / spread if spread else math.nan
        )


def _predicted(end: Evaluated, start: Evaluated) -> float:
    """Change of E from one point to another by the slopes known; 0 without any."""
    slopes = [g for g in (start.gradient, end.gradient) if g is not None]
    return sum(float(g @ (end.x - start.x)) / len(slopes) for g in slopes)
