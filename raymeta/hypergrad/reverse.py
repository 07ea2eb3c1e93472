"""Reverse mode through the whole run."""

from dataclasses import dataclass
from typing import ClassVar

from raymeta.hypergrad.base import (
    Hypergradient,
    Rollout,
    differentiable,
    pull_back,
    require_steps,
    start,
    unroll,
)
from raymeta.problem import BilevelProblem
from raymeta.tree import detach
from raymeta.types import Hparams


@dataclass(frozen=True)
class Reverse:
    r"""Long-term hypergradient: back-propagation through all of training.

    $$ \alpha_T = \nabla E(s_T),\quad g \mathrel{+}= \alpha_{t+1} B_{t+1},\quad
       \alpha_t = \alpha_{t+1} A_{t+1},\qquad
       A = \partial\Phi/\partial s,\; B = \partial\Phi/\partial\lambda $$

    Keeps every intermediate of the run: memory O(T). Each estimate restarts training.

    Attributes:
        steps: T, the length of the run.

    Source: Franceschi et al. 2017, Algorithm 1 (Reverse-HG); Domke 2012.
    """

    steps: int
    continues: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require_steps("Reverse", self.steps)

    def init(self, problem: BilevelProblem, hparams: Hparams) -> Rollout:
        """Training stands at s_0(λ)."""
        return start(problem, hparams)

    def estimate(
        self, problem: BilevelProblem, hparams: Hparams, rollout: Rollout
    ) -> tuple[Hypergradient, Rollout]:
        """dE(s_T, λ)/dλ of a run of T steps from s_0(λ), whatever the rollout."""
        leaves = differentiable(hparams)
        live = {**hparams, **leaves}
        state = unroll(problem, live, problem.init(live), 0, self.steps)
        outer_loss = problem.outer_loss(state, live)
        grads = pull_back(outer_loss, leaves)
        cost = self.cost(problem, hparams)
        return (
            Hypergradient(outer_loss.detach(), grads, cost),
            Rollout(detach(state), self.steps),
        )

    def cost(self, problem: BilevelProblem, hparams: Hparams) -> float:
        """3 T and the outer gradient: differentiating a pass costs two more."""
        return 3 * self.steps + problem.outer_cost
