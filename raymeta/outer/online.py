"""Online hypergradient descent: hyper-steps while training goes on."""

import math
from collections.abc import Generator, Iterator
from dataclasses import replace
from statistics import median

import torch
from torch import Tensor

from raymeta.hypergrad import ShortTerm
from raymeta.hypergrad.base import with_steps
from raymeta.outer.base import HyperDescent
from raymeta.outer.coordinates import Coordinates
from raymeta.outer.evaluator import Trained
from raymeta.outer.look_ahead import LookAhead
from raymeta.outer.online_run import OnlineRun, OnlineState, OnlineStep
from raymeta.outer.replay import trained
from raymeta.outer.report import Report, outer_value
from raymeta.outer.steps.adam import HYPER_LR, ClippedAdam
from raymeta.outer.trust import Evaluated
from raymeta.types import State

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
    longer one is the longest in the place of 0.2. An adaptive `ShortTerm` looks farther
    ahead where longer looks disagree and runs get no better (`LookAhead`). A better run
    moves the start of the next one to its own mean λ; after a worse one the longest
    shrinks, so that runs tend to training at the best λ found. After two, six plain
    runs at most look for another start nearby (see `HyperDescent`); the first of them
    is at the mean λ of the best run, which is trained at as a constant before the
    budget ends. As long as no run, that at the start included, has ended better than it
    began, the next one goes on from where the last one led.

    Looks beside a run along which λ changes are plain runs along the same λ, all of it
    moved to one side.

    Source: Baydin et al. 2018 and Franceschi et al. 2017 (RTHO).
    """

    coordinates: Coordinates

    def __post_init__(self) -> None:
        """Know nothing better than the start."""
        super().__post_init__()
        first = self.hyper_lr or HYPER_LR
        self._longest = max(first, HYPER_LR)
        steps = self.estimator.steps
        self._look: LookAhead | None = None
        if isinstance(self.estimator, ShortTerm) and self.estimator.adaptive:
            self._look = LookAhead(steps, steps, self.horizon)
        self._agreements: list[float] = []  # of looks, in all runs
        self._adam = ClippedAdam(first).init(self._best.x)
        self._escape, self._way = ESCAPE, torch.zeros(())
        self._visited: list[tuple[int, Tensor]] = []
        #: The best point where that is the mean of a run's λ, and what that visited.
        self._learned: tuple[Evaluated, list[tuple[int, Tensor]]] | None = None
        self._began = math.inf  # E after the first estimate of a run
        #: Mean λ of the best run, until that has been trained at as a constant.
        self._untrained: Tensor | None = None

    def _descent(self) -> Iterator[Report]:
        start, worse = self._best.x, 0
        constant = self._best.value
        if not self.known and self._meter.covers(self.sure_cost):
            constant = yield from self._plain(start, self.horizon)
        converged = False  # whether a run has ended better than it began
        while self._meter.covers(self.run_cost + self._constant_cost):
            value = yield from self._run(start)
            converged |= min(value, constant) < self._began
            constant = math.inf
            if value == math.inf:
                # The moments of a diverging run would dwarf all later gradients.
                self._adam = ClippedAdam(self._adam.lr).init(start)
            if value < self._best.value:
                self._best, worse = Evaluated(self._mean(), value, None), 0
                self._learned = self._best, self._visited
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
        state, t, compared = run.begin(x, adam), 0, len(self._agreements)
        for step in self._steps(run, state):
            self._meter.charge(step.gradient_evals)
            t, before = step.state.rollout.step, t
            self._visited.append((t - before, step.x))
            if not math.isnan(step.agreement):
                self._agreements.append(step.agreement)
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
        if self._look is not None:
            better = value < min(self._best.value, self._began)
            self._look = self._look.after(better, self._agreements[compared:])
        return value if value < self._began else math.inf

    def _steps(self, run: OnlineRun, state: OnlineState) -> Iterator[OnlineStep]:
        """A run whose first E is that of all examples, to compare its last with."""
        for step in run.whole.steps(state, min(run.estimator.steps, self.horizon)):
            yield step
            state = step.state
        if math.isfinite(step.value):
            yield from run.steps(state, self.horizon)

    @property
    def _online(self) -> OnlineRun:
        """The next run."""
        look, estimator = self._look, self.estimator
        if look is not None:
            estimator = with_steps(estimator, look.steps)
        return OnlineRun(
            problem=self.problem,
            coordinates=self.coordinates,
            estimator=estimator,
            horizon=self.horizon,
            evaluator=self.evaluator,
            look=look,
        )

    def _slope_near(self, x: Tensor) -> Tensor | None:
        """What hyper-steps descend."""
        return self._adam.m if bool(self._adam.m.any()) else None

    def _beside(
        self, best: Evaluated, x: Tensor, offset: float
    ) -> Generator[Report, None, float]:
        """E of the best run, all of its λ moved as x is from their mean."""
        if self._learned is None or self._learned[0] is not best:
            return (yield from super()._beside(best, x, offset))
        moved = [
            (steps, self.coordinates.project(at + x - best.x))
            for steps, at in self._learned[1]
        ]
        natural = [(steps, self.coordinates.hparams(at)) for steps, at in moved]

        def train() -> Trained:
            state = trained(self.problem, natural)
            return state, [outer_value(self.problem, state, natural[-1][1])]

        at_mean = self.coordinates.hparams(x)
        state, (value,) = self.evaluator.run(at_mean, self.horizon, train)
        self._meter.charge(self._plain_cost(self.horizon))
        yield self._along(moved, value, state)._replace(offset=offset)
        return value if math.isfinite(value) else math.inf

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
        rollout = step.state.rollout
        if rollout.step == self.horizon:
            return self._along(self._visited, value, rollout.state)
        flat = self.coordinates.point(step.x)
        return self._with_trust(self._meter.report(rollout.step, value, flat))

    def _along(
        self, visited: list[tuple[int, Tensor]], value: float, state: State
    ) -> Report:
        """The report of a whole run."""
        schedule = [(steps, self.coordinates.point(x)) for steps, x in visited]
        report = self._meter.report(
            self.horizon,
            value,
            schedule[-1][1],
            complete=True,
            state=state,
            schedule=schedule,
        )
        return self._with_trust(report)

    def _with_trust(self, report: Report) -> Report:
        """A report, with how far short looks have agreed with longer ones."""
        report = super()._with_trust(report)
        if not self._agreements:
            return report
        return report._replace(agreement=median(self._agreements))

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
        run = self._online
        first = min(run.estimator.steps, self.horizon)
        return run.whole.charge(0, first) + run.charge(first, self.horizon)
