"""Online, one step ahead."""

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
        """Training stands at s_0(λ); the cost of an estimate is carried along."""
        return start(problem, hparams)._replace(carry=self.cost(problem, hparams))

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
        return (
            Hypergradient(outer_loss.detach(), grads, rollout.carry),
            Rollout(detach(state), t + self.steps, rollout.carry),
        )

    def cost(self, problem: BilevelProblem, hparams: Hparams) -> float:
        """1 for the first step, 3 for each further one, and the outer gradient.

        The first gradient is taken at a fixed s_t, so differentiating it costs nothing
        unless λ is in the inner loss itself.
        """
        first = 3 if _inner_loss_depends(problem, hparams) else 1
        return first + 3 * (self.steps - 1) + problem.outer_cost


def _inner_loss_depends(problem: BilevelProblem, hparams: Hparams) -> bool:
    if problem.inner_loss is None:
        return True
    live = {**hparams, **differentiable(hparams)}
    state = detach(problem.init(hparams))
    return problem.inner_loss(state, live, problem.batch(0)).requires_grad
