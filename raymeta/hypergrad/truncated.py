"""Reverse mode through the last steps of a run."""

from dataclasses import dataclass, field
from typing import ClassVar

from raymeta._tree import detach
from raymeta.distributed.collectives import require_functional
from raymeta.hypergrad.base import (
    AMONG_STEPS,
    Hypergradient,
    Rollout,
    advance,
    differentiable,
    estimated_loss_cost,
    look_ahead_cost,
    outer_loss_at,
    pull_back,
    require_settings,
    start,
    unroll,
)
from raymeta.hypergrad.compiled import compiled
from raymeta.hypergrad.preflight import differentiating, require_sound
from raymeta.problem import BilevelProblem
from raymeta.types import Hparams


@dataclass(frozen=True)
class Truncated:
    r"""K-step truncated back-propagation: the last K steps of the run only.

    $$ h_{T-K} = \frac{\partial E}{\partial\lambda}
       + \sum_{t=T-K+1}^{T} B_t A_{t+1} \cdots A_T \nabla E(s_T),\qquad
       A = \partial\Phi/\partial s,\; B = \partial\Phi/\partial\lambda $$

    The first T - K steps run without a graph: memory O(K). The error shrinks
    exponentially in K where the inner loss is strongly convex, and need not elsewhere.
    Each estimate restarts training. With K = T it is `Reverse`.

    Attributes:
        steps: T, the length of the run.
        window: K, the steps that are differentiated; cut to `steps` for shorter runs.
        compile: run the steps and their derivatives as machine code; see `compiled`.

    Source: Shaban et al. 2019, section 3 (K-RMD) and Proposition 3.1.
    """

    steps: int
    window: int = field(metadata=AMONG_STEPS)
    compile: bool = False
    continues: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require_settings(self)
        if not 1 <= self.window <= self.steps:
            raise ValueError(
                "Truncated needs 1 <= window <= steps, but got "
                f"window={self.window}, steps={self.steps}: window={self.steps} "
                "differentiates the whole run"
            )

    @differentiating
    def init(self, problem: BilevelProblem, hparams: Hparams) -> Rollout:
        """Training stands at s_0(λ); the cost of an estimate is carried along.

        Raises:
            ValueError: an operator of a step cannot be differentiated twice.
        """
        require_sound(problem, hparams, through="state")
        if self.compile:
            require_functional(problem)
        return start(problem, hparams)._replace(carry=self.cost(problem, hparams))

    @differentiating
    def estimate(
        self, problem: BilevelProblem, hparams: Hparams, rollout: Rollout
    ) -> tuple[Hypergradient, Rollout]:
        """dE(s_T, λ)/dλ with s_{T-K} held fixed, of a run from s_0(λ)."""
        problem = compiled(problem, self.compile)
        leaves = differentiable(hparams)
        live = {**hparams, **leaves}
        hint = ""
        state, before = problem.init(live), self.steps - self.window
        if before:
            state = advance(problem, hparams, detach(state), 0, before)
            hint = "; what acts only before the window needs window=steps"
        state = unroll(problem, live, state, before, self.window)
        outer_loss = outer_loss_at(problem, hparams)(state, live)
        grads = pull_back(outer_loss, leaves, hint)
        return (
            Hypergradient(outer_loss.detach(), grads, rollout.carry),
            Rollout(detach(state), self.steps, rollout.carry),
        )

    def cost(self, problem: BilevelProblem, hparams: Hparams) -> float:
        """1 per step before the window, 3 per step in it, and the outer gradient.

        The window's first gradient is taken at a fixed state: see `look_ahead_cost`.
        """
        if self.window == self.steps:
            return 3 * self.steps + estimated_loss_cost(problem)
        window = look_ahead_cost(problem, hparams, self.window)
        return self.steps - self.window + window + estimated_loss_cost(problem)
