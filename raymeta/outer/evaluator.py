"""Evaluations: the expensive part of a descent, which may also be remembered."""

import time
from collections.abc import Callable, Iterator
from typing import Any

from raymeta.hypergrad import Estimator, Hypergradient, Rollout
from raymeta.outer.report import Report, plain_run
from raymeta.problem import BilevelProblem
from raymeta.types import Hparams, State

#: s_T, and E(s_T, λ) of each run that was trained.
Trained = tuple[State, list[float]]


class Evaluator:
    """Evaluations of a descent: here they are computed.

    A descent is a deterministic function of what these methods return. So one that was
    killed goes on where it was if what they returned is returned again, in order, by a
    subclass that remembers it. What has been remembered has its numbers and the step
    where training stands, but maybe not the state: a descent may report that and pass
    it on, and must not look into it.
    """

    def estimate(
        self,
        estimator: Estimator,
        problem: BilevelProblem,
        hparams: Hparams,
        rollout: Rollout,
    ) -> tuple[Hypergradient, Rollout]:
        """`estimator.estimate(problem, hparams, rollout)`."""
        return estimator.estimate(problem, hparams, rollout)

    def run(
        self,
        hparams: Hparams,
        horizon: int,
        train: Callable[[], Trained],
        rollout: Rollout | None = None,
    ) -> Trained:
        """Training without hypergradient and E at its end: what `train` returns.

        Args:
            hparams: λ of one run, or of several, stacked.
            horizon: the training steps of the whole run.
            train: trains, and evaluates.
            rollout: where it goes on from; None for s_0.
        """
        return train()

    def plain_run(
        self, problem: BilevelProblem, hparams: Hparams, horizon: int
    ) -> tuple[State, float]:
        """(s_T, E(s_T, λ)) of training at fixed λ."""

        def train() -> Trained:
            state, value = plain_run(problem, hparams, horizon)
            return state, [value]

        state, (value,) = self.run(hparams, horizon, train)
        return state, value

    def keep(self, state: State | None) -> None:
        """Told of the state of the best run so far; None where it is not known."""

    def kept(self, like: Callable[[], State]) -> State:
        """The state of the best run, where its report has none.

        Args:
            like: gives any state of the same structure.
        """
        raise AssertionError("what is computed has its state")

    def once(self, name: str, compute: Callable[[], float]) -> float:
        """A number that is needed beside evaluations: what `compute` returns."""
        return compute()

    def common(self, value: Any) -> Any:
        """A decision that all processes of a descent must take alike: here the own."""
        return value

    def timed(self, reports: Iterator[Report]) -> Iterator[Report]:
        """The reports, with the seconds until each."""
        start = time.perf_counter()
        for report in reports:
            yield report._replace(wall_s=time.perf_counter() - start)


#: Computes, and remembers nothing.
DIRECT = Evaluator()
