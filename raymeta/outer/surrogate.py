"""Descent on a Gaussian process over the values and hypergradients seen."""

import logging
import math
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from raymeta.outer.gaussian_process import (
    GaussianProcess,
    Observations,
    log_expected_improvement,
)
from raymeta.outer.mixed_coordinates import MixedCoordinates
from raymeta.outer.report import Report
from raymeta.outer.whole_runs import WholeRunDescent
from raymeta.problem import BilevelProblem
from raymeta.types import Hparams

_log = logging.getLogger(__name__)

#: Half the width of the first trust region, and of the largest and the smallest.
FIRST, LARGEST, SMALLEST = 1.5, 6.0, 0.05
#: The region grows with each better point, and is halved by so many that are not, or by
#: half as many as there are coordinates.
GROWTH, FAILURES = 2.0, 3
#: Points of the first design; up to so many coordinates, or with choices, there are
#: more.
DESIGN, FEW, LARGE_DESIGN = 4, 4, 8
#: Each so manieth point is looked for everywhere: without choices, and with.
ELSEWHERE_EVERY, ELSEWHERE_WITH_CHOICES = 5, 3
#: From so many coordinates on a hypergradient tells more than the three runs it costs.
SLOPED = 3
#: Hypergradients whose noise is a larger part of them than this are not asked for.
TOO_NOISY = 0.5
#: E is seen on a scale of one of these parts of its spread, the likeliest: the smaller,
#: the more what is near the best counts.
SHARPNESS = 0.03, 0.1, 0.3, 1.0
#: What diverged stands so far above the worst, on that scale.
DIVERGED = 0.5
#: What lies farther from the best point than so many half widths of the region says
#: nothing of what is within it.
REACH, EXTRA = 2.0, 1
#: So many values and derivatives are believed in at once: the matrix has its square.
MOST = 400
#: Candidates near the best, and everywhere; those that move more than so many
#: coordinates at once are a third of the first.
NEAR, EVERYWHERE, TOGETHER = 600, 400, 6
#: The best candidates climb by so many steps, each of this part of the region.
CLIMBERS, CLIMBING, PACE = 3, 25, 0.05
#: Nearer to a point that was seen, as part of the region, is not another point.
SAME = 0.01
# The descent does not end in steps by curvature (`OfflineDescent`'s), from which
# `long_term` has its lower ends on smooth tasks of few coordinates. On lotka-volterra,
# pendulum (and surface-hartmann6), seeds 0 to 2, 30 runs: such steps wherever a slope
# is wanted led to better points on 3 and worse ones on 3; only at an agreement between
# .5 and 1.5 and a noise of slopes below .2, on 1 and 1 of 9; hypergradients in the
# place of plain runs in the region once that noise is below .1, on 2 and 5 of 9.
#: Proposals are rounded to this, so that the last bits of a fit do not matter.
GRID = 2.0**-20


class _Slope(NamedTuple):
    """A hypergradient: where, E there, dE/dx, and which of its entries are known."""

    x: Tensor
    value: float
    gradient: Tensor
    known: Tensor


@dataclass(kw_only=True)
class SurrogateDescent(WholeRunDescent):
    r"""Values over slopes: a Gaussian process that has both, in a trust region.

    1. A plain run at the start, and at the points of a scrambled Sobol' sequence; what
       is known beforehand takes their place.
    2. A `GaussianProcess` over $\log(1 + (E - E_{min})/s)$ at the points in a trust
       region around the best one, and as far beside it, with the hypergradients as its
       derivatives, each with a noise that is learnt. The next plain run is where log
       expected improvement is largest within the region, whose width in each coordinate
       is proportional to its length ℓ; every fifth one is looked for everywhere, by a
       process over all points.
    3. The region grows with a better point and shrinks where a few runs find none. A
       hypergradient at the best point is asked for where a run has found none better
       since: three runs' worth. Where the noise learnt says that values contradict
       hypergradients, or an estimate is refused, no more are asked for.

    Options are searched as well: each has a coordinate of the process, in which nothing
    is known of derivatives. Half of the points looked at within the region have another
    option in one choice; what that alone uses is drawn between its bounds.

    A problem with outer loss $a E + b$, $a > 0$, is descended by the same path.

    Attributes: see `HyperDescent`; `hyper_lr` is half the width of the first region.
        problem_of: the problem at the options of λ; None where it is always the same.
        refusal: why no hypergradients are asked for; "" where they are.

    Source: Wu et al. 2017, "Bayesian optimization with gradients"; the trust region:
    Eriksson et al. 2019, "Scalable global optimization via local Bayesian
    optimization" (TuRBO), with options: Wan et al. 2021, "Think global and act local".
    """

    coordinates: MixedCoordinates
    problem_of: Callable[[Hparams], BilevelProblem] | None = None
    refusal: str = ""

    def __post_init__(self) -> None:
        """Begin with nothing seen."""
        super().__post_init__()
        self._seen = [(one.x, one.value) for one in self.known]
        self._slopes: list[_Slope] = []
        self._log_scales: dict[tuple[float, bool], Tensor] = {}
        self._width = self.hyper_lr or FIRST
        self._process: GaussianProcess | None = None
        self._low, self._high = self.coordinates.box()

    @property
    def run_cost(self) -> float:
        """Charge for one plain run: it does without hypergradients, too."""
        return self._plain_cost(self.horizon)

    def _problem_at(self, hparams: Hparams) -> BilevelProblem:
        return self.problem if self.problem_of is None else self.problem_of(hparams)

    def _from_start(self, x: Tensor) -> Tensor:
        moved = super()._from_start(x)
        return torch.where(self.coordinates.used(x), moved, 0.0)

    def _descent(self) -> Iterator[Report]:
        if self.refusal:
            _log.warning("searching by values alone: %s", self.refusal)
        if not self.known:
            yield from self._value(self.coordinates.start())
            yield from self._design()
        failures, proposals = 0, 0
        every = ELSEWHERE_WITH_CHOICES if self.coordinates.choices else ELSEWHERE_EVERY
        sloped, wanted = False, True  # whether dE/dx at the best is known, is wanted
        while self._meter.covers(self.run_cost):
            if self._best.value == math.inf:
                yield from self._look_around()
            elif wanted and not sloped and self._asks_for_slopes():
                yield from self._slope(self._best.x)
                sloped, wanted = True, False
            else:
                proposals += 1
                anywhere = proposals % every == 0
                before, x = self._best.value, self._propose(anywhere)
                if x is None or not self._affords(x):
                    return
                yield from self._value(x)
                if self._best.value < before:
                    failures, sloped, wanted = 0, False, False
                    self._width = min(self._width * GROWTH, LARGEST)
                elif not anywhere:
                    failures, wanted = failures + 1, True
                    if failures >= max(FAILURES, self.coordinates.dimensions // 2):
                        failures = 0
                        self._width = max(self._width / 2, SMALLEST)

    def _design(self) -> Generator[Report, None, None]:
        """Points of a Sobol' sequence, where the budget holds more than these."""
        d = self.coordinates.dimensions
        large = d <= FEW or self.coordinates.choices
        count = LARGE_DESIGN if large else DESIGN
        if self._meter.runs(self.run_cost) < 2 * count:
            return
        sobol = torch.quasirandom.SobolEngine(d, scramble=True, seed=self.seed)
        shares = sobol.draw(count, dtype=torch.float64)
        for x in self.coordinates.at_shares(shares):
            if self._affords(x):
                yield from self._value(x)

    def _look_around(self) -> Generator[Report, None, None]:
        """A point farther and farther from a start where training diverges."""
        yield from self._value(self._perturbed(self.coordinates.start(), self._width))
        self._width = min(self._width * GROWTH, LARGEST)

    def _asks_for_slopes(self) -> bool:
        if self.refusal or self.coordinates.used(self._best.x).sum() < SLOPED:
            return False
        cost = self._cost(self.horizon, self._best.x) + self.run_cost
        if not self._meter.covers(cost):
            return False
        process = self._process
        return not self._slopes or process is None or process.gradient_noise < TOO_NOISY

    def _value(self, x: Tensor) -> Generator[Report, None, None]:
        x = self.coordinates.project(x)
        value = yield from self._plain(x, self.horizon)
        self._seen.append((x, value))

    def _slope(self, x: Tensor) -> Generator[Report, None, None]:
        try:
            value, gradient = yield from self._estimate(x, self.horizon)
        except ValueError as refusal:  # as where E does not depend on some λ
            _log.warning("searching by values alone from here: %s", refusal)
            self.refusal = str(refusal)
            return
        if value < math.inf and bool(gradient.any()):
            known = self.coordinates.used(x)
            self._slopes.append(_Slope(x, value, gradient, known))

    # ------------------------------------------------------------------- the surrogate

    def _propose(self, anywhere: bool) -> Tensor | None:
        """Where log expected improvement is largest; None where all was seen."""
        seen, process = self._fitted(anywhere)
        if not anywhere:
            self._process = process
        low, high = self._low, self._high
        centre = self._best.x.clamp(low, high)
        half = self._half_widths(process.lengths)
        if not anywhere:
            low, high = (
                (centre - half).clamp(low, high),
                (centre + half).clamp(low, high),
            )
        points = self._candidates(centre, half, anywhere).clamp(low, high)
        points = self.coordinates.canonical(points)

        def improvement(z: Tensor) -> Tensor:
            return log_expected_improvement(process.posterior(z), seen.y.min())

        with torch.no_grad():
            best = improvement(points).topk(CLIMBERS).indices
        climbers = points[best].clone().requires_grad_()
        walked = torch.stack([self.coordinates.used(x) for x in points[best]])
        adam = torch.optim.Adam([climbers], lr=PACE * self._width, maximize=True)
        for _ in range(CLIMBING):
            adam.zero_grad()
            improvement(climbers).sum().backward()
            assert climbers.grad is not None
            climbers.grad *= walked
            adam.step()
            with torch.no_grad():
                climbers.clamp_(low, high)
        with torch.no_grad():
            points = torch.cat([points, climbers.detach()])
            found = improvement(points)
            near = torch.cdist(points, seen.x).amin(1) < SAME * min(self._width, 1.0)
            found[near] = -math.inf
            if near.all():
                return None
            return (points[found.argmax()] / GRID).round() * GRID

    def _half_widths(self, lengths: Tensor) -> Tensor:
        """Of the region: around options, and what the best ones do not use, no end."""
        walked = self.coordinates.used(self._best.x)
        relative = lengths / lengths[walked].log().mean().exp()
        half = self._width * relative.clamp(0.3, 3.0)
        return torch.where(walked, half, self._high - self._low)

    def _candidates(self, centre: Tensor, half: Tensor, anywhere: bool) -> Tensor:
        """Random points: in the region, or between all bounds."""
        if anywhere:
            shape = (EVERYWHERE, self.coordinates.dimensions)
            u = torch.rand(shape, generator=self._random, dtype=torch.float64)
            return self.coordinates.at_shares(u)
        count, d = NEAR, len(centre)
        u = 2 * torch.rand((count, d), generator=self._random, dtype=torch.float64) - 1
        walked = self.coordinates.used(centre)
        between = self._low + (u + 1) / 2 * (self._high - self._low)
        if d > TOGETHER:
            moved = torch.rand((count, d), generator=self._random) < TOGETHER / d
            moved[: count // 3] = True
            u = torch.where(moved, u, 0.0)
        few = u[: count // 4]
        points = torch.cat([centre + u * half, centre + 0.2 * few * half])
        elsewhere = torch.cat([between, between[: count // 4]])
        options = self.coordinates.is_option
        points = torch.where(walked | options, points, elsewhere)
        points[:, options] = centre[options]
        return self.coordinates.beside(points, self._random)

    def _fitted(self, anywhere: bool) -> tuple[Observations, GaussianProcess]:
        """All that was seen, on the scale on which a Gaussian process explains it best.

        Densities of E itself are compared, so that each has the derivative of what was
        taken of E (Snelson et al. 2004, eq. 6).
        """
        points, slopes = self._believed(anywhere)
        best, density = None, -math.inf
        for sharpness in SHARPNESS:
            seen, log_jacobian = self._observations(points, slopes, sharpness)
            key = (sharpness, anywhere)
            process = GaussianProcess(seen, self._log_scales.get(key))
            self._log_scales[key] = process.log_scales
            if best is None or process.log_density + log_jacobian > density:
                best, density = (seen, process), process.log_density + log_jacobian
        assert best is not None
        return best

    def _believed(
        self, anywhere: bool
    ) -> tuple[list[tuple[Tensor, float]], list[_Slope]]:
        """Values and slopes in the trust region and beside it, or all; not too many."""
        slopes = self._slopes
        if anywhere:
            seen = sorted(self._seen, key=lambda one: one[1])
        else:
            seen = sorted(self._seen, key=lambda one: self._distance(one[0]))
            near = sum(self._distance(x) <= REACH * self._width for x, _ in seen)
            seen = seen[: max(near, self.coordinates.dimensions + EXTRA)]
            slopes = [s for s in slopes if self._distance(s.x) <= REACH * self._width]
        return seen[: MOST // 2], slopes[-max(1, MOST // 2 // len(self._low)) :]

    def _observations(
        self, seen: list[tuple[Tensor, float]], slopes: list[_Slope], sharpness: float
    ) -> tuple[Observations, float]:
        """What was seen, standardized; and the log of what densities shrink by."""
        values = torch.tensor([value for _, value in seen], dtype=torch.float64)
        finite = values.isfinite()
        least = values.min()
        spread = values[finite].median() - least
        if not spread > 0:
            spread = values[finite].max() - least
        if not spread > 0 and slopes:
            spread = self._width * slopes[-1].gradient.norm()
        scale = sharpness * (float(spread) or max(abs(float(least)), 1e-12))
        y = ((values - least) / scale).log1p()
        y = torch.where(finite, y, y[finite].max() + DIVERGED)
        deviation = y.std(correction=0)
        if not deviation > 1e-9:
            deviation = torch.ones_like(deviation)
        at = torch.tensor([one.value for one in slopes], dtype=torch.float64)
        # dy/dE, at values and at slopes.
        rates = 1 / (scale + values[finite] - least) / deviation
        slope_rates = 1 / (scale + at - least) / deviation
        observed = Observations(
            torch.stack([x for x, _ in seen]).clamp(self._low, self._high),
            (y - y.mean()) / deviation,
            self._rows([one.x for one in slopes]).clamp(self._low, self._high),
            self._rows(
                [torch.where(one.known, one.gradient, torch.nan) for one in slopes]
            )
            * slope_rates[:, None],
        )
        entries = self._rows([one.known for one in slopes]).sum(1)
        jacobian = rates.log().sum() + (entries * slope_rates.log()).sum()
        return observed, float(jacobian)

    def _distance(self, x: Tensor) -> float:
        """Between x and the best point, in what the options of both use."""
        both = self.coordinates.used(x) & self.coordinates.used(self._best.x)
        return float(torch.where(both, x - self._best.x, 0.0).abs().max())

    def _rows(self, rows: list[Tensor]) -> Tensor:
        return torch.stack(rows) if rows else self._low.new_zeros((0, len(self._low)))
