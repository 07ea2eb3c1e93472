"""Hypergradient descent while training goes on."""

import math
from collections.abc import Generator, Iterator

import torch
from torch import Tensor

from raymeta.hypergrad import Estimator, Rollout
from raymeta.hypergrad.base import with_steps
from raymeta.outer.base import Evaluated, HyperDescent
from raymeta.outer.report import Report, Schedule
from raymeta.outer.steps.adam import HYPER_LR, ClippedAdam

#: A hyper-step that begins shorter than the longest grows to it by exp(GROW c) a step,
#: where c > 0 is the cosine of a gradient with those before.
GROW = 0.5
#: How it shrinks after a training run that was no better than the best.
SHRINK = 0.8
#: So many of them in a row, and so many plain runs look for another start at most.
PATIENCE, LOOKS = 2, 6
#: Standard deviation of a step out of where the first estimate diverges; it doubles.
ESCAPE = 0.7


class OnlineDescent(HyperDescent):
    r"""Descends while training goes on; runs again and again from what was learnt.

    First comes a plain run at the start, where the budget covers it and a run that
    descends. Every estimate is followed by one hyper-step of `ClippedAdam`. Its length
    η is 0.2, or what is given; one that is given shorter grows to 0.2 while
    hypergradients agree,

    $$ \eta \leftarrow \min(\eta\, e^{\max(0, \cos(g_t, m_{t-1})) / 2},\ 0.2), $$

    and a longer one is the longest in the place of 0.2. A better run moves the start of
    the next one to its own mean λ; after a worse one the longest shrinks, so that runs
    tend to training at the best λ found. After two, six plain runs at most look for
    another start nearby (see `HyperDescent`). As long as no run, that at the start
    included, has ended better than it began, the next one goes on from where the last
    one led.

    Source: Baydin et al. 2018 and Franceschi et al. 2017 (RTHO) for the descent. That η
    grows by the agreement of hypergradients is Baydin's rule, applied to η itself.
    """

    def __post_init__(self) -> None:
        """Know nothing better than the start."""
        super().__post_init__()
        first = self.hyper_lr or HYPER_LR
        self._longest = max(first, HYPER_LR)
        self._adam = ClippedAdam(first)
        self._escape, self._way = ESCAPE, torch.zeros(())
        self._visited: list[tuple[int, Tensor]] = []
        self._began = math.inf  # E after the first estimate of a run
        self._cost = self.run_cost

    def reports(self) -> Iterator[Report]:
        """Descend until nothing more is covered by the budget."""
        start, worse = self._best.x, 0
        constant = math.inf
        if self._meter.covers(self.sure_cost):
            constant = yield from self._plain(start, self.horizon)
        converged = False  # whether a run has ended better than it began
        while self._meter.covers(self._cost):
            value = yield from self._run(start)
            converged |= min(value, constant) < self._began
            constant = math.inf
            if value == math.inf:
                # The moments of a diverging run would dwarf all later gradients.
                self._adam = ClippedAdam(self._adam.lr)
            if value < self._best.value:
                self._best, worse = Evaluated(self._mean(), value, None), 0
                start = self._best.x
            elif converged:
                self._longest, worse = self._longest * SHRINK, worse + 1
            else:
                start = self._go_on()
            if worse == PATIENCE:
                worse = 0
                if found := (yield from self._local_search(LOOKS)):
                    start, self._adam = found.x, ClippedAdam(self._longest)
        while (yield from self._local_search()) is not None:
            pass

    def _run(self, x: Tensor) -> Generator[Report, None, float]:
        """One training run from x; returns E(s_T), or ∞ if it is above the first E."""
        coordinates = self.coordinates
        rollout = self.estimator.init(self.problem, coordinates.hparams(x))
        self._adam.lr = min(self._adam.lr, self._longest)
        self._visited = []
        self._began = value = math.inf
        while rollout.step < self.horizon:
            hparams = coordinates.hparams(x)
            before = rollout.step
            hyper, rollout = self.evaluator.estimate(
                self._next(rollout), self.problem, hparams, rollout
            )
            self._meter.charge(hyper.gradient_evals)
            self._visited.append((rollout.step - before, x))
            value = float(hyper.outer_loss)
            yield self._report(x, value, rollout)
            if not math.isfinite(value):
                return math.inf
            if len(self._visited) == 1:
                self._began = value
            x = self._adam.step(x, coordinates.gradient(x, hyper.grads))
            x = coordinates.project(x)
            longer = self._adam.lr * math.exp(GROW * max(self._adam.agreement, 0.0))
            self._adam.lr = min(longer, self._longest)
        return value if value < self._began else math.inf

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

    def _next(self, rollout: Rollout) -> Estimator:
        """The estimator, cut to what is left of the run."""
        left = self.horizon - rollout.step
        return with_steps(self.estimator, min(self.estimator.steps, left))

    def _report(self, x: Tensor, value: float, rollout: Rollout) -> Report:
        flat = self.coordinates.flat(x)
        if rollout.step < self.horizon:
            return self._meter.report(rollout.step, value, flat)
        schedule: Schedule = [
            (steps, self.coordinates.flat(visited)) for steps, visited in self._visited
        ]
        return self._meter.report(rollout.step, value, flat, (rollout.state, schedule))

    def _mean(self) -> Tensor:
        return torch.stack([x for _, x in self._visited]).mean(dim=0)

    @property
    def sure_cost(self) -> float:
        """Charge for such a run, and for a plain one at the start."""
        return self.run_cost + self._plain_cost(self.horizon)

    @property
    def run_cost(self) -> float:
        """Charge for one complete training run."""
        hparams = self.coordinates.hparams(self.coordinates.start())
        steps = self.estimator.steps
        whole, left = divmod(self.horizon, steps)
        cost = whole * self.estimator.cost(self.problem, hparams)
        if left:
            last = with_steps(self.estimator, left)
            cost += last.cost(self.problem, hparams)
        return cost
