"""Online hypergradient descent: hyper-steps while training goes on."""

import math
from collections.abc import Generator, Iterator
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from raymeta.outer.base import HyperDescent
from raymeta.outer.coordinates import Coordinates
from raymeta.outer.online_run import OnlineRun, OnlineState, OnlineStep
from raymeta.outer.report import Report, Schedule
from raymeta.outer.steps.adam import HYPER_LR, ClippedAdam
from raymeta.outer.trust import Evaluated

#: How hyper-steps shrink after a training run that was no better than the best.
SHRINK = 0.8
#: So many of them in a row, and so many plain runs look for another start at most.
PATIENCE, LOOKS = 2, 6
#: Standard deviation of a step out of where the first estimate diverges; it doubles.
ESCAPE = 0.7


class OnlineDescent(HyperDescent):
    r"""Descends while training goes on; runs again and again from what was learnt.

    First comes a plain run at the start, where the budget covers it and a run that
    descends (`OnlineRun`). The length of its hyper-steps is 0.2, or what is given; one
    that is given shorter grows to 0.2 while hypergradients agree (`ClippedAdam`), and a
    longer one is the longest in the place of 0.2. A better run moves the start of the
    next one to its own mean λ; after a worse one the longest shrinks, so that runs tend
    to training at the best λ found. After two, six plain runs at most look for another
    start nearby (see `HyperDescent`); the first of them is at the mean λ of the best
    run, which is trained at as a constant before the budget ends. As long as no run,
    that at the start included, has ended better than it began, the next one goes on
    from where the last one led.

    Source: Baydin et al. 2018 and Franceschi et al. 2017 (RTHO).
    """

    # What lies beside a run along which λ changes is no run at a constant λ.
    looks_beside: ClassVar[bool] = False

    coordinates: Coordinates

    def __post_init__(self) -> None:
        """Know nothing better than the start."""
        super().__post_init__()
        first = self.hyper_lr or HYPER_LR
        self._longest = max(first, HYPER_LR)
        self._online = OnlineRun(
            problem=self.problem,
            coordinates=self.coordinates,
            estimator=self.estimator,
            horizon=self.horizon,
            evaluator=self.evaluator,
        )
        self._adam = ClippedAdam(first).init(self._best.x)
        self._escape, self._way = ESCAPE, torch.zeros(())
        self._visited: list[tuple[int, Tensor]] = []
        self._began = math.inf  # E after the first estimate of a run
        #: Mean λ of the best run, until that has been trained at as a constant.
        self._untrained: Tensor | None = None
        self._cost = self.run_cost

    def _descent(self) -> Iterator[Report]:
        start, worse = self._best.x, 0
        constant = math.inf
        if self._meter.covers(self.sure_cost):
            constant = yield from self._plain(start, self.horizon)
        converged = False  # whether a run has ended better than it began
        while self._meter.covers(self._cost + self._constant_cost):
            value = yield from self._run(start)
            converged |= min(value, constant) < self._began
            constant = math.inf
            if value == math.inf:
                # The moments of a diverging run would dwarf all later gradients.
                self._adam = ClippedAdam(self._adam.lr).init(start)
            if value < self._best.value:
                self._best, worse = Evaluated(self._mean(), value, None), 0
                start = self._untrained = self._best.x
            elif converged:
                self._longest, worse = self._longest * SHRINK, worse + 1
            else:
                start = self._go_on()
            if worse == PATIENCE:
                worse = 0
                looks = LOOKS - (self._untrained is not None)
                found = yield from self._constant()
                found = found or (yield from self._local_search(looks))
                if found:
                    start = found.x
                    self._adam = ClippedAdam(self._longest).init(start)
        yield from self._constant()
        while (yield from self._local_search()) is not None:
            pass

    def _constant(self) -> Generator[Report, None, Evaluated | None]:
        """The mean λ of the best run as a constant; None unless that is better."""
        x, self._untrained = self._untrained, None
        if x is None or not self._meter.covers(self._plain_cost(self.horizon)):
            return None
        best = self._best.value
        value = yield from self._plain(x, self.horizon)
        return self._best if value < best else None

    @property
    def _constant_cost(self) -> float:
        """Charge for what is still to be trained at the mean λ of the best run."""
        return 0.0 if self._untrained is None else self._plain_cost(self.horizon)

    def _run(self, x: Tensor) -> Generator[Report, None, float]:
        """One training run from x; returns E(s_T), or ∞ if it is above the first E."""
        self._visited = []
        self._began = value = math.inf
        adam = self._adam._replace(lr=min(self._adam.lr, self._longest))
        run = replace(self._online, adam=ClippedAdam(longest=self._longest))
        state, t = run.begin(x, adam), 0
        for step in self._steps(run, state):
            self._meter.charge(step.gradient_evals)
            t, before = step.state.rollout.step, t
            self._visited.append((t - before, step.x))
            self._adam, value = step.state.adam, step.value
            if t == self.horizon:
                value, charge = run.outer_loss(step)
                self._meter.charge(charge)
            elif len(self._visited) == 1:
                value, charge = run.whole.outer_loss(step)
                self._meter.charge(charge)
            yield self._report(step, value)
            if not math.isfinite(value):
                return math.inf
            if len(self._visited) == 1:
                self._began = value
        return value if value < self._began else math.inf

    def _steps(self, run: OnlineRun, state: OnlineState) -> Iterator[OnlineStep]:
        """A run whose first E is that of all examples, to compare its last with."""
        for step in run.whole.steps(state, self._first):
            yield step
            state = step.state
        if math.isfinite(step.value):
            yield from run.steps(state, self.horizon)

    @property
    def _first(self) -> int:
        """The end of the first estimate."""
        return min(self.estimator.steps, self.horizon)

    def _go_on(self) -> Tensor:
        """Where to start after diverging, finitely or not: where that run led.

        The hyper learning rate shrinks where it leads back. A run that diverged within
        its first estimate leads nowhere: then another point is tried.
        """
        x, way = self._visited[-1][1], self._visited[-1][1] - self._visited[0][1]
        if (way * self._way).sum() < 0:
            self._longest *= SHRINK
        self._way = way
        if len(self._visited) == 1:
            x = self._perturbed(x, self._escape)
            self._escape *= 2
        return x

    def _report(self, step: OnlineStep, value: float) -> Report:
        rollout, flat = step.state.rollout, self.coordinates.point(step.x)
        if rollout.step < self.horizon:
            return self._meter.report(rollout.step, value, flat)
        schedule: Schedule = [
            (steps, self.coordinates.point(visited)) for steps, visited in self._visited
        ]
        return self._meter.report(
            rollout.step,
            value,
            flat,
            complete=True,
            state=rollout.state,
            schedule=schedule,
        )

    def _mean(self) -> Tensor:
        total = sum(steps for steps, _ in self._visited)
        each = [steps / total * x for steps, x in self._visited]
        return torch.stack(each).sum(dim=0)

    @property
    def sure_cost(self) -> float:
        """Charge for such a run, and for a plain one at the start."""
        return self.run_cost + self._plain_cost(self.horizon)

    @property
    def run_cost(self) -> float:
        """Charge for one complete training run."""
        (first,) = self._online.whole.charges((self._first,))
        return first + sum(self._online.charges((self.horizon - self._first,)))
