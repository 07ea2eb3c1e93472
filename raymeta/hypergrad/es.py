"""Evolution strategies over whole runs."""

from dataclasses import dataclass, field, replace
from typing import ClassVar

from torch.distributed import ProcessGroup

from raymeta._tree import detach
from raymeta.distributed.conjugate import default_group
from raymeta.hypergrad.antithetic import (
    Population,
    Sigma,
    antithetic_gradient,
    losses_of_all,
    noise,
    own_pairs,
    require_sampling,
    started,
)
from raymeta.hypergrad.base import (
    Hypergradient,
    Rollout,
    advance,
    estimated_loss_cost,
    outer_loss_at,
    require_settings,
)
from raymeta.hypergrad.compiled import compiled
from raymeta.hypergrad.preflight import differentiating, require_real
from raymeta.problem import BilevelProblem
from raymeta.types import Hparams


@dataclass(frozen=True)
class ES:
    r"""Antithetic evolution strategies: differences of whole runs at λ ± ε.

    $$ \hat g = \frac{1}{2 N \sigma^2} \sum_{i=1}^N \epsilon_i
       \bigl(E(\lambda + \epsilon_i) - E(\lambda - \epsilon_i)\bigr),\qquad
       \epsilon_i \sim \mathcal N(0, \sigma^2 I) $$

    An unbiased estimate of the gradient of $\mathbb E_\epsilon E(\lambda + \epsilon)$.
    Needs no derivative of a step; cannot tell a hyperparameter without effect from one
    with. Its outer loss is that of the run at λ itself. Each estimate restarts
    training.

    Attributes:
        steps: T, the length of the run.
        sigma: σ in natural values, one number or one per hyperparameter by name.
        pairs: N.
        seed: seeds the noise, which is a function of (seed, λ).
        vectorized: run all perturbations at once by `torch.func.vmap`; False for a step
            that it refuses (`.item()`, control flow that depends on data).
        compile: run the steps as machine code; see `compiled`.
        group: ranks that share the pairs, see `split`; None for this process alone.

    Source: Salimans et al. 2017, Algorithm 1, with mirrored sampling.
    """

    steps: int
    sigma: Sigma
    pairs: int
    seed: int = 0
    vectorized: bool = True
    compile: bool = False
    group: ProcessGroup | None = field(default=None, repr=False, compare=False)
    continues: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require_settings(self)
        require_sampling("ES", self.sigma, self.pairs)

    def split(self, group: ProcessGroup | None = None) -> "ES":
        """The same, its N pairs shared out among W ranks: N/W each.

        Every rank computes the run at λ itself. Charges stay those of one process;
        time falls.

        Args:
            group: the ranks; all by default. Each has the same problem and λ.

        Raises:
            ValueError: this process is in no group. From `init`: there are fewer pairs
                than ranks; ranks have other hyperparameters, weights or data.
        """
        return replace(self, group=default_group(group, "ES.split"))

    @differentiating
    def init(self, problem: BilevelProblem, hparams: Hparams) -> Rollout:
        """Training stands at s_0(λ)."""
        require_real("ES", hparams)
        functional = self.vectorized or self.compile
        return started(problem, hparams, self.pairs, self.group, functional=functional)

    @differentiating
    def estimate(
        self, problem: BilevelProblem, hparams: Hparams, rollout: Rollout
    ) -> tuple[Hypergradient, Rollout]:
        """The estimate from runs of T steps from s_0, whatever the rollout."""
        problem = compiled(problem, self.compile)
        epsilon = noise(hparams, self.sigma, self.pairs, self.seed, 0)
        mine, own = own_pairs(epsilon, self.group)
        runs = Population.around(problem, hparams, own, self.vectorized)
        look = outer_loss_at(problem, hparams)
        losses = runs.losses(runs.advance(runs.start(), 0, self.steps), look)
        losses = losses_of_all(losses, mine, self.group)
        grads = antithetic_gradient(epsilon, losses, self.sigma)
        state = detach(problem.init(hparams))
        state = advance(problem, hparams, state, 0, self.steps)
        outer_loss = look(state, detach(hparams)).detach()
        cost = self.cost(problem, hparams)
        return Hypergradient(outer_loss, grads, cost), Rollout(state, self.steps)

    def cost(self, problem: BilevelProblem, hparams: Hparams) -> float:
        """2 N + 1 plain runs, and the outer loss (a third of a pass) of each."""
        return (2 * self.pairs + 1) * (self.steps + estimated_loss_cost(problem) / 3)
