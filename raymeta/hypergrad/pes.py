"""Persistent evolution strategies: while training goes on, without truncation bias."""

from dataclasses import dataclass, field, replace
from typing import ClassVar, NamedTuple

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
    outer_loss_of,
    require_settings,
    validation_batch,
)
from raymeta.hypergrad.compiled import compiled
from raymeta.hypergrad.preflight import differentiating, require_real
from raymeta.problem import BilevelProblem
from raymeta.types import Hparams, State, Tensors


class Particles(NamedTuple):
    """Perturbed runs that go on from window to window.

    Attributes:
        states: s of the runs at + and then at -; leading dimension 2 N, of a rank's
            own pairs where they are split.
        sums: ξ, all perturbations of a + run so far: name -> shape (N, *shape). A -
            run has -ξ.
    """

    states: State
    sums: Tensors


@dataclass(frozen=True)
class PES:
    r"""Persistent evolution strategies: the noise of all windows so far is summed.

    $$ \xi_i \leftarrow \xi_i + \epsilon_i,\qquad
       \hat g = \frac{1}{2 N \sigma^2} \sum_{i=1}^N \xi_i
       \bigl(E(s_i^+) - E(s_i^-)\bigr),\qquad
       \epsilon_i \sim \mathcal N(0, \sigma^2 I) $$

    where $s_i^\pm$ go on at $\lambda \pm \epsilon_i$ from the last window, with new
    noise in each. An unbiased estimate of dE(s_t)/dλ through all steps since s_0, of E
    smoothed over the noise; its variance grows with the number of windows. Needs no
    derivative of a step; cannot tell a hyperparameter without effect from one with. Its
    outer loss is that of the run at λ itself. Each estimate continues training.

    Attributes:
        steps: the length of a window.
        sigma: σ in natural values, one number or one per hyperparameter by name.
        pairs: N.
        seed: seeds the noise, which is a function of (seed, step, λ).
        vectorized: see `ES`.
        compile: see `ES`.

    Source: Vicol et al. 2021, Algorithm 2, with antithetic pairs.
    """

    steps: int
    sigma: Sigma
    pairs: int
    seed: int = 0
    vectorized: bool = True
    compile: bool = False
    group: ProcessGroup | None = field(default=None, repr=False, compare=False)
    continues: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_settings(self)
        require_sampling("PES", self.sigma, self.pairs)

    def split(self, group: ProcessGroup | None = None) -> "PES":
        """The same, its N pairs shared out among W ranks: N/W each.

        Every rank computes the run at λ itself. Charges stay those of one process;
        time falls.

        Args:
            group: the ranks; all by default. Each has the same problem and λ.

        Raises:
            ValueError: this process is in no group. From `init`: there are fewer pairs
                than ranks; ranks have other hyperparameters, weights or data.
        """
        return replace(self, group=default_group(group, "PES.split"))

    @differentiating
    def init(self, problem: BilevelProblem, hparams: Hparams) -> Rollout:
        """Training stands at s_0(λ); the first window perturbs the start as well."""
        require_real("PES", hparams)
        functional = self.vectorized or self.compile
        return started(problem, hparams, self.pairs, self.group, functional=functional)

    @differentiating
    def estimate(
        self, problem: BilevelProblem, hparams: Hparams, rollout: Rollout
    ) -> tuple[Hypergradient, Rollout]:
        """dE/dλ after `steps` more steps, through all steps since s_0."""
        t, particles = rollout.step, rollout.carry
        problem = compiled(problem, self.compile)
        epsilon = noise(hparams, self.sigma, self.pairs, self.seed, t)
        mine, own = own_pairs(epsilon, self.group)
        runs = Population.around(problem, hparams, own, self.vectorized)
        if particles is None:
            states, sums = runs.start(), epsilon
        else:
            states = particles.states
            sums = {name: xi + epsilon[name] for name, xi in particles.sums.items()}
        states = runs.advance(states, t, self.steps)
        look = outer_loss_of(problem, validation_batch(problem), t // self.steps)
        losses = losses_of_all(runs.losses(states, look), mine, self.group)
        grads = antithetic_gradient(sums, losses, self.sigma)
        state = advance(problem, hparams, rollout.state, t, self.steps)
        outer_loss = look(state, detach(hparams)).detach()
        cost = self.cost(problem, hparams)
        return (
            Hypergradient(outer_loss, grads, cost),
            Rollout(state, t + self.steps, Particles(states, sums)),
        )

    def cost(self, problem: BilevelProblem, hparams: Hparams) -> float:
        """2 N + 1 plain runs, and the outer loss (a third of a pass) of each."""
        return (2 * self.pairs + 1) * (self.steps + estimated_loss_cost(problem) / 3)
