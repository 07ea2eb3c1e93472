"""Reverse mode along a run that is retraced backwards, bit for bit."""

from dataclasses import dataclass
from typing import ClassVar

from raymeta._tree import detach
from raymeta.distributed.collectives import require_functional
from raymeta.distributed.sharded import require_unsharded
from raymeta.hypergrad.adjoint import Adjoint
from raymeta.hypergrad.base import (
    Hypergradient,
    Rollout,
    differentiable,
    estimated_loss_cost,
    outer_loss_at,
    require_settings,
    start,
)
from raymeta.hypergrad.compiled import compiled
from raymeta.hypergrad.fixed_precision import MAGNITUDE_BITS
from raymeta.hypergrad.preflight import differentiating, require_sound
from raymeta.hypergrad.reversible_run import (
    RetracedRun,
    require_inverse,
    require_real_weights,
)
from raymeta.problem import BilevelProblem
from raymeta.types import Hparams


@dataclass(frozen=True)
class Reversible:
    r"""Reversible learning: reverse mode that keeps no states, as it undoes the steps.

    $$ \bar v \leftarrow \bar v - \alpha_t \bar w,\qquad
       \bar\lambda \leftarrow \bar\lambda
       + \bar v\, \frac{\partial f_t}{\partial\lambda}
       + \bar v \cdot v_t\, \frac{\partial\mu_t}{\partial\lambda}
       - \bar w \cdot v_{t+1}\, \frac{\partial\alpha_t}{\partial\lambda},\qquad
       \bar w \leftarrow \bar w + \bar v\, \frac{\partial f_t}{\partial w},\quad
       \bar v \leftarrow \mu_t \bar v $$

    for $v_{t+1} = \mu_t v_t + f_t$, $w_{t+1} = w_t - \alpha_t v_{t+1}$, from
    $\bar w = \nabla E(w_T)$, $\bar v = 0$ at t = T - 1 down to 0. The run is kept in
    fixed point, where (w_t, v_t) follows from (w_{t+1}, v_{t+1}) exactly; see
    `RetracedRun`. Memory: one step, and an average of log2(1/μ) bits per parameter and
    step, which the returned rollout's `carry` reports as `Stored`. Each estimate
    restarts training.

    Attributes:
        steps: T, the length of the run.
        fractional_bits: w, v and f are held to 2^-fractional_bits and must stay below
            2^(62 - fractional_bits), 4096 by default; a product with μ is exact to
            2^(12 - fractional_bits).
        compile: run gradients and their derivatives as machine code; see `compiled`.

    Source: Maclaurin, Duvenaud & Adams 2015, Algorithms 2 and 3, in the variant of
    `torch.optim.SGD`: theirs has f = (μ - 1) ∇L and steps along +v.
    """

    steps: int
    fractional_bits: int = 50
    compile: bool = False
    continues: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require_settings(self)
        if not 0 <= self.fractional_bits < MAGNITUDE_BITS:
            raise ValueError(
                f"Reversible needs fractional_bits in [0, {MAGNITUDE_BITS}), but got "
                f"{self.fractional_bits}"
            )

    @differentiating
    def init(self, problem: BilevelProblem, hparams: Hparams) -> Rollout:
        """Training stands at s_0(λ).

        Raises:
            ValueError: the problem's steps have no inverse; an operator of a step
                cannot be differentiated twice.
        """
        require_inverse(problem, hparams)
        require_real_weights(problem.init(hparams).params)
        require_sound(problem, hparams, through="state")
        require_unsharded(problem, "steps that are undone")
        if self.compile:
            require_functional(problem)
        return start(problem, hparams)

    @differentiating
    def estimate(
        self, problem: BilevelProblem, hparams: Hparams, rollout: Rollout
    ) -> tuple[Hypergradient, Rollout]:
        """dE(s_T, λ)/dλ of a run of T steps from s_0(λ), whatever the rollout.

        Raises:
            ValueError: the problem's steps have no inverse; the outer loss does not
                depend on a hyperparameter.
            OverflowError: a number left the range of fixed point.
            RuntimeError: a gradient was not the same when it was computed again.
        """
        problem = compiled(problem, self.compile)
        leaves = differentiable(hparams)
        live = {**hparams, **leaves}
        s_0 = problem.init(live)
        run = RetracedRun(problem, live, detach(s_0), self.fractional_bits)
        for t in range(self.steps):
            run.forward(t)
        stored = run.stored(self.steps)

        s_T = run.state(self.steps)
        outer_loss = outer_loss_at(problem, hparams)(s_T, live)
        adjoint = Adjoint(outer_loss, leaves)
        adjoint.pull([outer_loss], run.parts(s_T))
        for t in reversed(range(self.steps)):
            before, after = run.backward(t)
            adjoint.pull(run.parts(after), run.parts(before))
        run.require_start()
        adjoint.pull(run.parts(s_0), [])

        cost = self.cost(problem, hparams)
        return (
            Hypergradient(outer_loss.detach(), adjoint.grads(), cost),
            Rollout(detach(s_T), self.steps, stored),
        )

    def cost(self, problem: BilevelProblem, hparams: Hparams) -> float:
        """4 T and the outer gradient.

        A step is taken once, its gradient computed again, and that pulled back for 2.
        """
        return 4 * self.steps + estimated_loss_cost(problem)
