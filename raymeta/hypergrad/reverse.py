"""Reverse mode through the whole run."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

from raymeta._tree import detach
from raymeta.distributed.collectives import require_functional
from raymeta.distributed.sharded import require_unsharded
from raymeta.errors import unknown_name
from raymeta.hypergrad.base import (
    Hypergradient,
    Rollout,
    differentiable,
    estimated_loss_cost,
    outer_loss_at,
    pull_back,
    require_settings,
    start,
    unroll,
)
from raymeta.hypergrad.compiled import compiled
from raymeta.hypergrad.higher_engine import require_truth, unroll_with_higher
from raymeta.hypergrad.preflight import differentiating, require_sound
from raymeta.problem import BilevelProblem
from raymeta.types import Hparams, State


def _functional(
    problem: BilevelProblem, hparams: Hparams, state: State, steps: int
) -> State:
    return unroll(problem, hparams, state, 0, steps)


#: Name -> (problem, λ, s_0, T) -> s_T, in λ's graph.
ENGINES: dict[str, Callable[[BilevelProblem, Hparams, State, int], State]] = {
    "functional": _functional,
    "higher": unroll_with_higher,
}


@dataclass(frozen=True)
class Reverse:
    r"""Long-term hypergradient: back-propagation through all of training.

    $$ \alpha_T = \nabla E(s_T),\quad g \mathrel{+}= \alpha_{t+1} B_{t+1},\quad
       \alpha_t = \alpha_{t+1} A_{t+1},\qquad
       A = \partial\Phi/\partial s,\; B = \partial\Phi/\partial\lambda $$

    Keeps every intermediate of the run: memory O(T). Each estimate restarts training.

    Two engines take the steps, with the same derivatives. "functional" is the problem's
    own Φ. "higher" is the library of that name: it patches the inner loss as a module,
    and `torch.optim`'s optimizer becomes its differentiable twin. It runs problems of
    `descent` and `module_problem` with `sgd`, `adam` (at a constant β2), `rmsprop`,
    `adagrad` and `adadelta` of `raymeta.optim`; what it gets wrong is refused before
    the first step.

    Attributes:
        steps: T, the length of the run.
        engine: what takes the steps; see above.
        compile: run the steps and their derivatives as machine code; see `compiled`.

    Raises:
        ValueError: steps below 1; an unknown engine; `higher` compiled.

    Source: Franceschi et al. 2017, Algorithm 1 (Reverse-HG); Domke 2012. `higher`:
    Grefenstette et al. 2019.
    """

    steps: int
    engine: Literal["functional", "higher"] = "functional"
    compile: bool = False
    continues: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require_settings(self)
        if self.engine not in ENGINES:
            raise unknown_name("engine", self.engine, ENGINES)
        if self.compile and self.engine == "higher":
            raise ValueError(
                "Reverse cannot compile what `higher` patches, but got compile=True, "
                "engine='higher': leave one of them out"
            )

    @differentiating
    def init(self, problem: BilevelProblem, hparams: Hparams) -> Rollout:
        """Training stands at s_0(λ).

        Raises:
            ValueError: an operator of a step cannot be differentiated twice; `higher`
                cannot take the steps, or its derivatives of them are wrong.
        """
        if self.engine == "higher":
            live = {**hparams, **differentiable(hparams)}
            require_truth(problem, live, problem.init(live))
        require_sound(problem, hparams, through="state")
        if self.engine == "higher":
            require_unsharded(problem, "steps of `higher`")
        if self.compile:
            require_functional(problem)
        return start(problem, hparams)

    @differentiating
    def estimate(
        self, problem: BilevelProblem, hparams: Hparams, rollout: Rollout
    ) -> tuple[Hypergradient, Rollout]:
        """dE(s_T, λ)/dλ of a run of T steps from s_0(λ), whatever the rollout.

        Raises:
            ValueError: the outer loss does not depend on a hyperparameter.
        """
        problem = compiled(problem, self.compile)
        leaves = differentiable(hparams)
        live = {**hparams, **leaves}
        state = ENGINES[self.engine](problem, live, problem.init(live), self.steps)
        outer_loss = outer_loss_at(problem, hparams)(state, live)
        grads = pull_back(outer_loss, leaves)
        cost = self.cost(problem, hparams)
        return (
            Hypergradient(outer_loss.detach(), grads, cost),
            Rollout(detach(state), self.steps),
        )

    def cost(self, problem: BilevelProblem, hparams: Hparams) -> float:
        """3 T and the outer gradient: differentiating a pass costs two more."""
        return 3 * self.steps + estimated_loss_cost(problem)
