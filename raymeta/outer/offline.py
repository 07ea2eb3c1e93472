"""Offline hypergradient descent: one hyper-step per training run."""

import math
from collections.abc import Generator, Iterator

from torch import Tensor

from raymeta.outer.coordinates import Coordinates
from raymeta.outer.report import Report
from raymeta.outer.steps.lbfgs import LBFGS
from raymeta.outer.steps.line_search import LineSearch
from raymeta.outer.steps.rprop import Rprop
from raymeta.outer.trust import Evaluated
from raymeta.outer.whole_runs import WholeRunDescent

#: First length of a step in each coordinate, unless another is given: a factor of e.
STEP = 1.0
#: Share of the first length where a descent is taken up again.
AGAIN = 0.5
#: The first estimates look at horizons T/8, T/4, T/2: they cost less than one of T, and
#: leave the region where nothing is learnt in T steps.
DOUBLINGS = 3
#: A line search ends where no coordinate would move by more than this.
SHORTEST = 0.05
# Steps are not scaled by the record of trust. On 48 tuning tasks × seeds of 30 runs, a
# trust region over T (halved at a ratio below 1/4, doubled above 3/4) led to better
# points on 14 and worse ones on 17; Rprop's lengths scaled so, on 14 and 23; no more
# gradients after a median ratio below 1/4, on 3 and 5; plain runs along the slope
# before random ones, on 8 and 5.
#: A step that moves no coordinate by more than this has arrived.
ARRIVED = 1e-6


class OfflineDescent(WholeRunDescent):
    r"""Steps by signs and curvature, over doubling horizons and then the whole one.

    1. A plain run over T from the start. Over horizons T/8, T/4, T/2: one hypergradient
       and one step of `Rprop` each. The point that the last one was taken at is looked
       at over T. Where the budget does not cover all this, 2 begins at the start.
    2. Over T, from the step of T/2 on, or from the start where that is the better
       point: each step of `Rprop`, corrected by `LBFGS` as soon as two
       hypergradients tell of it, ends in a hypergradient. If E fell, the next step
       starts there. If not, lengths shrink where signs changed on the way, and a
       `LineSearch` tries the shorter step by plain runs, which cost a third of a
       hypergradient.
    3. Where that finds nothing, plain runs at random points near the best one, until
       one is better (see `HyperDescent`): back to 2. If 2 then finds nothing k times in
       a row, gradients lead nowhere, as on a rough E: back to 2 after 2^k better
       points.

    Where points are known beforehand, 2 begins at the best of them.

    A problem with outer loss $a E + b$, $a > 0$, is descended by the same path. A run
    that diverges is followed by shorter ones, until one has a gradient that leads away.
    """

    coordinates: Coordinates

    def __post_init__(self) -> None:
        """Begin with steps of the first length."""
        super().__post_init__()
        self._length = self.hyper_lr or STEP
        self._begin(self._length)

    def _descent(self) -> Iterator[Report]:
        best: Evaluated | None = Evaluated(self.coordinates.start(), math.inf, None)
        if self.known:
            best = self._best
        halvings = 0 if self.known else self._first_halvings()
        if halvings:
            yield from self._plain(self.coordinates.start(), self.horizon)
            start = self._best
            best = yield from self._approach(halvings)
            if best is not None and start.value < best.value:
                best = start
                self._begin(AGAIN * self._length)
        fruitless = 0
        while best is not None:
            before = best.value
            yield from self._descend(best)
            fruitless = 0 if self._best.value < before else fruitless + 1
            for _ in range(2**fruitless):
                best = yield from self._local_search()
            self._begin(AGAIN * self._length)

    def _begin(self, length: float) -> None:
        """Forget all steps, and begin with steps of this length."""
        self._rprop = Rprop(length, self.coordinates.tensors)
        self._signs = self._rprop.init(self._best.x)
        self._lbfgs = LBFGS(Rprop.LONGEST)
        self._curvature = self._lbfgs.init()

    # -------------------------------------------------------------- 1. short horizons

    def _approach(self, halvings: int) -> Generator[Report, None, Evaluated | None]:
        """A point whose run over T is finite; None if the budget ends before."""
        ahead = self.coordinates.start()
        while self._meter.covers(self._plain_cost(self.horizon)):
            last = yield from self._double(ahead, halvings)
            value = yield from self._plain(last.x, self.horizon)
            if value < math.inf:
                return last._replace(value=value)
            ahead, halvings = self._ahead(last.x), 1
        return None

    def _double(self, x: Tensor, halvings: int) -> Generator[Report, None, Evaluated]:
        """Follow short horizons, each twice the one before; the last point, over T/2.

        A diverged estimate has no gradient to follow: the horizon is halved instead,
        and where not even one step is finite, another point tried.
        """
        last, length = Evaluated(x, math.inf, None), STEP
        while halvings:
            horizon = self.horizon >> halvings
            cost = self._cost(horizon) + self._plain_cost(self.horizon)
            if not self._meter.covers(cost):
                break
            value, gradient = yield from self._estimate(x, horizon)
            if value < math.inf:
                last = Evaluated(x, value, gradient)
                self._turn(gradient)
                x, halvings = self._ahead(x), halvings - 1
            elif horizon > 1:
                halvings += 1
            else:
                length *= 2
                x = self._perturbed(x, length)
        return last

    def _first_halvings(self) -> int:
        """How short to begin: not at all if that and a full run exceed the budget."""
        most = min(DOUBLINGS, self.horizon.bit_length() - 1)
        cost = sum(self._cost(self.horizon >> i) for i in range(1, most + 1))
        runs = 2 * self._plain_cost(self.horizon)  # at the start, and where they lead
        return most if self._meter.covers(cost + runs) else 0

    # ------------------------------------------------------------- 2. the whole horizon

    def _descend(self, best: Evaluated) -> Generator[Report, None, None]:
        """Step until no step leads to a better point.

        The first step is that of the last short horizon, where there was one.
        """
        known = False  # whether the gradient at the best point is that over T
        trial = best.x if best.gradient is None else self._ahead(best.x)
        while self._meter.covers(self._cost(self.horizon)):
            value, gradient = yield from self._estimate(trial, self.horizon)
            if value < math.inf:
                self._update_sensitivity(gradient)
            if known:
                assert best.gradient is not None
                rise = value - best.value
                step = trial - best.x
                self._curvature = self._lbfgs.update(
                    step, rise, best.gradient, gradient, self._curvature
                )
            if value < best.value or trial is best.x:
                self._turn(gradient)
                best, known = Evaluated(trial, value, gradient), True
                trial = best.x + self._step(best)
                if value == math.inf or _near(trial, best.x):
                    return
            else:
                failed = Evaluated(trial, value, gradient)
                tries = math.inf if known else 1
                found = yield from self._search(best, failed, tries)
                if found is None and known:
                    return
                trial = best.x if found is None else found

    def _search(
        self, best: Evaluated, failed: Evaluated, tries: float
    ) -> Generator[Report, None, Tensor | None]:
        """A point better than the best one, on a better or shorter step than failed."""
        assert failed.gradient is not None
        self._signs = self._rprop.retreat(failed.gradient, self._signs)
        step = self._step(best)
        assert best.gradient is not None
        slope = min(float(best.gradient @ step), 0.0)
        shortest = SHORTEST / max(float(step.abs().max()), SHORTEST)
        search, tried = LineSearch(best.value, slope, shortest=shortest), 1.0
        state = search.init()
        if _near(best.x + step, failed.x):
            state = search.update(failed.value, state)
        while state.length and not state.best and tries:
            if not self._meter.covers(self._plain_cost(self.horizon)):
                return None
            tries, tried = tries - 1, state.length
            value = yield from self._plain(best.x + tried * step, self.horizon)
            state = search.update(value, state)
        lengths = self._signs.lengths * (state.best or tried)
        self._signs = self._signs._replace(lengths=lengths)
        return best.x + state.best * step if state.best else None

    def _turn(self, gradient: Tensor) -> None:
        """Take in dE/dx where to step from."""
        self._signs = self._rprop.update(gradient, self._signs)

    def _step(self, best: Evaluated) -> Tensor:
        """From the best point to the next trial, within the bounds."""
        assert best.gradient is not None
        signs = self._rprop.step(self._signs)
        step = self._lbfgs.step(best.gradient, signs, self._curvature)
        return self.coordinates.project(best.x + step) - best.x

    def _ahead(self, x: Tensor) -> Tensor:
        return self.coordinates.project(x + self._rprop.step(self._signs))


def _near(x: Tensor, y: Tensor) -> bool:
    return float((x - y).abs().max()) < ARRIVED
