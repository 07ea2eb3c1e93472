"""Smoothed hypergradients: means over runs at λ beside each other."""

from dataclasses import dataclass, field, replace
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from raymeta._tree import detach
from raymeta.errors import require_types
from raymeta.hypergrad.antithetic import Sigma, noise, require_sampling
from raymeta.hypergrad.base import (
    INNER,
    Estimator,
    Hypergradient,
    Rollout,
    advance,
    plain_cost,
    require_estimator,
    start,
    whole_loss_cost,
)
from raymeta.hypergrad.batched_problem import outer_losses, stack, stackable, stacked
from raymeta.hypergrad.checkpointed import Checkpointed
from raymeta.hypergrad.preflight import differentiating
from raymeta.hypergrad.reverse import Reverse
from raymeta.hypergrad.truncated import Truncated
from raymeta.problem import BilevelProblem
from raymeta.types import Hparams, State, Tensors

#: Standard deviation of the noise, as part of |λ|.
RADIUS = 0.03


@dataclass(frozen=True)
class Smoothed:
    r"""Mean of hypergradients at λ ± ε: the gradient of a smoothed outer loss.

    $$ \hat g = \frac{1}{2 N} \sum_{i=1}^N
       \bigl(\nabla E(\lambda + \epsilon_i) + \nabla E(\lambda - \epsilon_i)\bigr),
       \qquad \epsilon_i \sim \mathcal N(0, \operatorname{diag} \sigma^2),\quad
       \sigma = r |\lambda| $$

    An unbiased estimate of the gradient of $\mathbb E_\epsilon E(\lambda + \epsilon)$,
    with σ held fixed, and exact where E is quadratic: what E does within σ is smoothed
    away, except for jumps, of which no derivative knows. A pair of which one run
    diverges is left out; where all do, the gradient is NaN. The outer loss is that of
    the run at λ itself. Each estimate restarts training. Where `vmap` can take
    a step, the 2 N runs are one program, with the memory of 2 N graphs.

    In the descent over whole runs it takes the place of nothing by itself: it costs
    seven thirds of an estimate. With 30 runs of budget and one pair it ended worse than
    `Reverse` on five tasks whose E is rough (jobs/experiments/tuning, seed 0): spirals
    .63 against .22, pendulum-bad .78 and .14, lotka-volterra-bad .77 and .49, graph-bad
    .81 and .78, relu-cnn .60 and .59.

    Attributes:
        estimator: what is averaged, over whole runs.
        radius: r, one number or one per hyperparameter by name. What must stay within
            bounds (a momentum near 1) needs a small one.
        pairs: N.
        seed: seeds the noise, which is a function of (seed, λ).

    Raises:
        ValueError: an estimator that goes on from its rollout; r or N not positive.

    Source: Nesterov & Spokoiny 2017, "Random gradient-free minimization of convex
    functions", section 2: the smoothed function; pairs: Salimans et al. 2017.
    """

    estimator: Estimator = field(metadata=INNER)
    radius: Sigma = RADIUS
    pairs: int = 1
    seed: int = 0
    continues: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require_types(self)
        require_smoothing("Smoothed", self.estimator, self.radius, self.pairs)

    @property
    def steps(self) -> int:
        """T, the length of the run."""
        return self.estimator.steps

    @differentiating
    def init(self, problem: BilevelProblem, hparams: Hparams) -> Rollout:
        """Training stands at s_0(λ), once the estimator has asked what it asks."""
        self.estimator.init(problem, hparams)
        return start(problem, hparams)

    @differentiating
    def estimate(
        self, problem: BilevelProblem, hparams: Hparams, rollout: Rollout
    ) -> tuple[Hypergradient, Rollout]:
        """The mean over runs of T steps from s_0, whatever the rollout."""
        epsilon = relative_noise(hparams, self.radius, self.pairs, self.seed)
        beside = Beside.of(self.estimator, problem, hparams, epsilon)
        means = {name: pairs.mean(0) for name, pairs in beside.pairs().items()}
        return at_itself(self, problem, hparams, means)

    def cost(self, problem: BilevelProblem, hparams: Hparams) -> float:
        """2 N estimates, and a plain run at λ itself."""
        estimates = 2 * self.pairs * self.estimator.cost(problem, hparams)
        return estimates + plain_cost(problem, self.steps)


class Beside(NamedTuple):
    """What an estimator says at λ + ε_1 … λ + ε_N, λ - ε_1 … λ - ε_N.

    Attributes:
        losses: E of each, shape (2 N,).
        grads: dE/dλ of each: name -> shape (2 N, *shape).
    """

    losses: Tensor
    grads: Tensors

    @classmethod
    def of(
        cls,
        estimator: Estimator,
        problem: BilevelProblem,
        hparams: Hparams,
        epsilon: Tensors,
    ) -> "Beside":
        """All runs as one program where that can be."""
        count = len(next(iter(epsilon.values())))
        runs = [
            detach(hparams)
            | {
                name: hparams[name].detach() + sign * e[i]
                for name, e in epsilon.items()
            }
            for sign in (1, -1)
            for i in range(count)
        ]
        # Each looks at a batch of validation examples of its own, where it does.
        whole = not whole_loss_cost(problem) and _vectorizes(estimator)
        if whole and _is_stackable(problem, runs):
            return cls._together(estimator, problem, stack(runs))
        found = [
            estimator.estimate(problem, h, estimator.init(problem, h))[0] for h in runs
        ]
        return cls(
            torch.stack([each.outer_loss for each in found]),
            {
                name: torch.stack([h.grads[name] for h in found])
                for name in found[0].grads
            },
        )

    @classmethod
    def _together(
        cls, estimator: Estimator, problem: BilevelProblem, hparams: Hparams
    ) -> "Beside":
        losses: list[Tensor] = []

        def outer_loss(state: State, hparams: Hparams) -> Tensor:
            each = outer_losses(problem, state, hparams)
            losses.append(each.detach())
            return each.sum()

        many = replace(stacked(problem), outer_loss=outer_loss)
        # The estimator has asked one run what it asks.
        rollout = start(many, hparams)._replace(carry=0.0)
        hyper, _ = estimator.estimate(many, hparams, rollout)
        return cls(losses[-1], hyper.grads)

    def pairs(self) -> Tensors:
        """Mean gradient of each pair that is finite: name -> shape (≤ N, *shape).

        Where none is, one that is NaN.
        """
        means = {k: torch.stack(g.chunk(2)).mean(0) for k, g in self.grads.items()}
        finite = torch.stack(self.losses.chunk(2)).isfinite().all(0)
        for mean in means.values():
            finite &= mean.reshape(len(mean), -1).isfinite().all(1)
        if not bool(finite.any()):
            return {
                k: torch.full_like(mean[:1], torch.nan) for k, mean in means.items()
            }
        return {name: mean[finite] for name, mean in means.items()}


def relative_noise(hparams: Hparams, radius: Sigma, pairs: int, seed: int) -> Tensors:
    """ε ~ N(0, (r |λ|)²): name -> shape (pairs, *shape)."""
    shares = noise(hparams, radius, pairs, seed, 0)
    return {name: e * hparams[name].detach().abs() for name, e in shares.items()}


def at_itself(
    estimator: Estimator, problem: BilevelProblem, hparams: Hparams, grads: Tensors
) -> tuple[Hypergradient, Rollout]:
    """What was found beside λ, with (s_T, E(s_T, λ)) of the run at λ itself."""
    steps = estimator.steps
    state = advance(problem, hparams, detach(problem.init(hparams)), 0, steps)
    outer_loss = problem.outer_loss(state, detach(hparams)).detach()
    found = Hypergradient(outer_loss, grads, estimator.cost(problem, hparams))
    return found, Rollout(state, steps)


def require_smoothing(name: str, estimator: object, radius: Sigma, pairs: int) -> None:
    """Raise ValueError unless an estimator can be smoothed."""
    require_estimator(estimator, steps=100)
    if estimator.continues:  # type: ignore[attr-defined]
        raise ValueError(
            f"{name} needs an estimator over whole runs, but got {estimator}, which "
            "goes on from where training stands: use Reverse(T)"
        )
    require_sampling(name, radius, pairs, "radius")


def _vectorizes(estimator: Estimator) -> bool:
    """Whether it takes N runs as one: by reverse mode, through the problem's own Φ."""
    if isinstance(estimator, Reverse):
        return estimator.engine == "functional" and not estimator.compile
    return isinstance(estimator, Truncated | Checkpointed) and not estimator.compile


def _is_stackable(problem: BilevelProblem, runs: list[Hparams]) -> bool:
    """Asked, and said on the log, once for a problem."""
    if "stackable" not in problem.traced:
        problem.traced["stackable"] = stackable(problem, runs)
    return problem.traced["stackable"]
