"""Online, one step ahead."""

from dataclasses import dataclass
from typing import ClassVar

from raymeta.hypergrad.base import (
    Hypergradient,
    Rollout,
    differentiable,
    look_ahead_cost,
    pull_back,
    require_steps,
    start,
    unroll,
)
from raymeta.problem import BilevelProblem
from raymeta.tree import detach
from raymeta.types import Hparams


@dataclass(frozen=True)
class ShortTerm:
    r"""Short-term hypergradient: a few steps ahead, while training goes on.

    $$ \frac{dE(s_{t+1})}{d\lambda} \approx \nabla E(s_{t+1}) \,
       \frac{\partial \Phi(s_t, \lambda, b_t)}{\partial \lambda} $$

    with s_t held fixed. For the learning rate of SGD it is Baydin et al.'s
    $-\nabla E(w_{t+1}) \cdot \nabla f(w_t)$. Each estimate continues training.

    Attributes:
        steps: how many steps to look ahead; 1 by default.

    Source: Baydin et al. 2018, eq. 5-6; Chandra et al. 2022 for any hyperparameter.
    """

    steps: int = 1
    continues: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_steps("ShortTerm", self.steps)

    def init(self, problem: BilevelProblem, hparams: Hparams) -> Rollout:
        """Training stands at s_0(λ); the charge for one step is carried along."""
        first = look_ahead_cost(problem, hparams, 1)
        return start(problem, hparams)._replace(carry=first)

    def estimate(
        self, problem: BilevelProblem, hparams: Hparams, rollout: Rollout
    ) -> tuple[Hypergradient, Rollout]:
        """dE/dλ over the next `steps` steps; the rollout goes on from there."""
        leaves = differentiable(hparams)
        live = {**hparams, **leaves}
        state, t = rollout.state, rollout.step
        state = unroll(problem, live, state, t, self.steps)
        outer_loss = problem.outer_loss(state, live)
        hint = "; what acts on the start of training alone has no short-term effect"
        grads = pull_back(outer_loss, leaves, hint)
        cost = rollout.carry + 3 * (self.steps - 1) + problem.outer_cost
        return (
            Hypergradient(outer_loss.detach(), grads, cost),
            Rollout(detach(state), t + self.steps, rollout.carry),
        )

    def cost(self, problem: BilevelProblem, hparams: Hparams) -> float:
        """1 for the first step, 3 for each further one, and the outer gradient.

        3 for the first one too where λ is in the inner loss (see `look_ahead_cost`).
        """
        return look_ahead_cost(problem, hparams, self.steps) + problem.outer_cost
