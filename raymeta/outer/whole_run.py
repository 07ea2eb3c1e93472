"""Hypergradient descent with one hyper-step per training run."""

import math
from collections.abc import Generator, Iterator
from typing import Any

import torch
from torch import Tensor

from raymeta.hypergrad import Estimator
from raymeta.hypergrad.base import with_steps
from raymeta.outer.coordinates import Coordinates
from raymeta.outer.report import Ledger, Report, Schedule, plain_cost, plain_run
from raymeta.outer.rprop import Rprop
from raymeta.problem import BilevelProblem

#: First length of a step in each unconstrained coordinate: a factor of e.
STEP = 1.0
#: The first estimates look at horizons T/8, T/4, T/2: they cost less than one of T, and
#: leave the region where nothing is learnt in T steps.
DOUBLINGS = 3
#: A descent is stuck when this many estimates in a row improve by less than 2 %.
PATIENCE, PROGRESS = 3, 0.98
#: Standard deviation of a restart around the best point, and the shortest one.
RESTART, RESTART_MIN, RESTART_DECAY = 0.7, 0.2, 0.9
#: Beyond this many coordinates a restart keeps its length instead of growing with √n.
RESTART_DIMENSIONS = 8


class WholeRunDescent:
    """Rprop on E(s_T, λ), over doubling horizons first, restarted when it is stuck.

    A restart perturbs the best point at random. Its value costs a third of a
    hypergradient, so a point is first tried with a plain run, and only if that is
    better than the best is the descent taken up there.
    """

    def __init__(
        self,
        problem: BilevelProblem,
        coordinates: Coordinates,
        estimator: Estimator,
        *,
        horizon: int,
        budget: float,
        seed: int,
        hyper_lr: float | None,
    ) -> None:
        self._problem, self._coordinates = problem, coordinates
        self._estimator, self._horizon = estimator, horizon
        self._ledger = Ledger(budget)
        self._random = torch.Generator().manual_seed(seed)
        self._first_step = STEP if hyper_lr is None else hyper_lr
        self._best: tuple[Tensor, float] | None = None
        self._restart = RESTART

    @property
    def run_cost(self) -> float:
        """Charge for one complete estimate."""
        return self._cost(self._coordinates.start(), self._horizon)

    def reports(self) -> Iterator[Report]:
        """Descend until the next estimate would exceed the budget."""
        x, rprop = self._coordinates.start(), self._new_rprop(self._first_step)
        restart: Tensor | None
        restart = yield from self._approach(x, rprop, self._first_halvings())
        while restart is not None:
            restart = yield from self._descend(restart, rprop)
            rprop = self._new_rprop(self._first_step / 2)

    def _approach(
        self, x: Tensor, rprop: Rprop, halvings: int
    ) -> Generator[Report, None, Tensor]:
        """Follow short horizons, each twice the one before; return where they lead.

        A diverged estimate has no gradient to follow: the horizon is halved instead,
        and where not even one step is finite, another point tried.
        """
        length = RESTART
        while halvings:
            horizon = self._horizon >> halvings
            cost = self._cost(x, horizon) + self._cost(x, self._horizon)
            if not self._ledger.covers(cost):
                break
            report, gradient = self._estimate(x, horizon)
            yield report
            if math.isfinite(report.outer_loss):
                rprop.observe(x, report.outer_loss, gradient)
                rprop.forget()
                x, halvings = rprop.propose(), halvings - 1
            elif horizon > 1:
                halvings += 1
            else:
                length *= 2
                x = self._perturbed(x, length)
        return x

    def _descend(
        self, x: Tensor, rprop: Rprop
    ) -> Generator[Report, None, Tensor | None]:
        """Descend from x until stuck; return where to take it up again."""
        values: list[float] = []
        while self._ledger.covers(self._cost(x, self._horizon)):
            report, gradient = self._estimate(x, self._horizon)
            yield report
            values.append(_finite(report.outer_loss))
            self._remember(x, values[-1])
            if self._best is None and not self._most_halvings:
                x = self._perturbed(x, RESTART * len(values))
                continue
            if self._best is None:
                x = yield from self._approach(x, rprop, min(1, self._most_halvings))
                continue
            rprop.observe(x, values[-1], gradient)
            proposal = rprop.propose()
            if _stuck(values) or torch.equal(proposal, x):
                return (yield from self._search_restart(x))
            x = proposal
        return None

    def _search_restart(self, x: Tensor) -> Generator[Report, None, Tensor | None]:
        """Try points around the best one with plain runs until one is better."""
        assert self._best is not None
        centre, best = self._best
        while self._ledger.covers(self._plain_cost()):
            x = self._perturbed(centre, self._restart)
            hparams = self._coordinates.hparams(x)
            state, value = plain_run(self._problem, hparams, self._horizon)
            self._ledger.charge(self._plain_cost())
            yield self._report(x, value, self._horizon, state)
            if value < best:
                self._remember(x, value)
                self._restart = RESTART
                return x
            self._restart = max(self._restart * RESTART_DECAY, RESTART_MIN)
        return None

    def _estimate(self, x: Tensor, horizon: int) -> tuple[Report, Tensor]:
        hparams = self._coordinates.hparams(x)
        estimator = self._at(horizon)
        rollout = estimator.init(self._problem, hparams)
        try:
            hyper, rollout = estimator.estimate(self._problem, hparams, rollout)
        except OverflowError:  # arithmetic without ∞ (Reversible): the run diverged
            self._ledger.charge(estimator.cost(self._problem, hparams))
            report = self._report(x, math.inf, horizon, rollout.state)
            return report, torch.zeros_like(x)
        self._ledger.charge(hyper.gradient_evals)
        report = self._report(x, float(hyper.outer_loss), horizon, rollout.state)
        return report, self._coordinates.gradient(x, hyper.grads)

    def _report(self, x: Tensor, value: float, horizon: int, state: Any) -> Report:
        complete = horizon == self._horizon
        schedule: Schedule = [(horizon, self._coordinates.flat(x))]
        return self._ledger.report(
            horizon,
            value,
            schedule[0][1],
            (state, schedule) if complete else None,
        )

    def _remember(self, x: Tensor, value: float) -> None:
        if value < (math.inf if self._best is None else self._best[1]):
            self._best = (x, value)

    def _perturbed(self, x: Tensor, length: float) -> Tensor:
        length *= min(1.0, (RESTART_DIMENSIONS / x.numel()) ** 0.5)
        noise = torch.randn(x.shape, generator=self._random, dtype=x.dtype)
        return self._coordinates.project(x + length * noise)

    @property
    def _most_halvings(self) -> int:
        return self._horizon.bit_length() - 1

    def _first_halvings(self) -> int:
        """How short to begin: not at all if that and a full run exceed the budget."""
        most = min(DOUBLINGS, self._most_halvings)
        x = self._coordinates.start()
        costs = [self._cost(x, self._horizon >> i) for i in range(most + 1)]
        return most if self._ledger.covers(sum(costs)) else 0

    def _new_rprop(self, step: float) -> Rprop:
        return Rprop(step, self._coordinates.project)

    def _at(self, horizon: int) -> Estimator:
        return with_steps(self._estimator, horizon)

    def _cost(self, x: Tensor, horizon: int) -> float:
        return self._at(horizon).cost(self._problem, self._coordinates.hparams(x))

    def _plain_cost(self) -> float:
        return plain_cost(self._problem, self._horizon)


def _finite(value: float) -> float:
    """The value, or ∞ for a diverged run: worse than any other."""
    return value if math.isfinite(value) else math.inf


def _stuck(values: list[float]) -> bool:
    if len(values) <= PATIENCE:
        return False
    return min(values[-PATIENCE:]) > PROGRESS * min(values[:-PATIENCE])
