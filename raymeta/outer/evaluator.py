"""Evaluations: the expensive part of a descent, which may also be remembered."""

from collections.abc import Callable

from raymeta.hypergrad import Estimator, Hypergradient, Rollout
from raymeta.outer.report import plain_run
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


#: Computes, and remembers nothing.
DIRECT = Evaluator()
