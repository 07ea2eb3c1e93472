"""Antithetic sampling: runs under random perturbations ±ε of λ, side by side."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.func import vmap

from raymeta._tree import detach, tree_leaves, tree_map
from raymeta.compile.recurrence import Recurrence
from raymeta.distributed.collectives import require_functional
from raymeta.distributed.preflight import require_same_start
from raymeta.distributed.sharded import require_unsharded
from raymeta.distributed.shares import Part, gathered, own_part
from raymeta.hypergrad.base import Rollout, differentiable, start
from raymeta.hypergrad.compiled import Compiled
from raymeta.hypergrad.preflight import require_sound
from raymeta.problem import BilevelProblem
from raymeta.types import Batch, Hparams, State, Tensors

#: Standard deviation in natural values: one for all, or one per hyperparameter by name.
Sigma = float | Mapping[str, float]


def require_sampling(
    estimator: str, sigma: Sigma, pairs: int, name: str = "sigma"
) -> None:
    """Raise ValueError unless both are positive; `name` is that of σ."""
    sigmas = sigma.values() if isinstance(sigma, Mapping) else [sigma]
    if not all(s > 0 for s in sigmas):
        raise ValueError(f"{estimator} needs {name} > 0, but got {name}={sigma}")
    if pairs < 1:
        raise ValueError(f"{estimator} needs pairs >= 1, but got pairs={pairs}")


def started(
    problem: BilevelProblem,
    hparams: Hparams,
    pairs: int,
    group: ProcessGroup | None,
    *,
    functional: bool,
) -> Rollout:
    """Training at s_0(λ), where runs beside it can be taken.

    Args:
        problem: what is trained.
        hparams: λ.
        pairs: N.
        group: the ranks that share out the pairs; None for one process.
        functional: whether runs are vectorized or compiled.

    Raises:
        ValueError: they cannot; there are fewer pairs than ranks; ranks have other
            hyperparameters, weights or data.
    """
    require_sound(problem, hparams, derivatives=False)
    require_unsharded(problem, "perturbed runs")
    if functional:
        require_functional(problem)
    rollout = start(problem, hparams)
    if group is not None:
        own_part(pairs, group, "pairs of perturbations")
        require_same_start(group, hparams, rollout.state, problem.batch(0))
    return rollout


def noise(hparams: Hparams, sigma: Sigma, pairs: int, seed: int, t: int) -> Tensors:
    """ε ~ N(0, σ²): name -> shape (pairs, *shape).

    A function of (seed, t, λ): the same estimate twice is the same, and an outer loop
    gets fresh noise at every new λ.
    """
    leaves = differentiable(hparams)
    digest = hashlib.blake2b(f"{seed} {t}".encode(), digest_size=8)
    for leaf in leaves.values():
        digest.update(leaf.detach().cpu().double().numpy().tobytes())
    generator = torch.Generator().manual_seed(int.from_bytes(digest.digest()))

    def draw(leaf: Tensor) -> Tensor:
        shape = (pairs, *leaf.shape)
        return torch.randn(shape, generator=generator, dtype=leaf.dtype).to(leaf.device)

    sigmas = by_name(sigma, leaves)
    return {name: sigmas[name] * draw(leaf) for name, leaf in leaves.items()}


def antithetic_gradient(sums: Tensors, losses: Tensor, sigma: Sigma) -> Tensors:
    """1 / (2 N σ²) Σ_i ξ_i (E_i⁺ - E_i⁻).

    Args:
        sums: ξ: name -> shape (N, *shape).
        losses: E⁺ and then E⁻, shape (2 N,).
        sigma: σ.
    """
    plus, minus = losses.chunk(2)
    difference = (plus - minus).detach()
    sigmas = by_name(sigma, sums)
    return {
        name: torch.tensordot(difference.to(xi.dtype), xi, dims=1)
        / (2 * len(xi) * sigmas[name] ** 2)
        for name, xi in sums.items()
    }


def own_pairs(noise: Tensors, group: ProcessGroup | None) -> tuple[Part, Tensors]:
    """Which pairs are this rank's, and their noise; all of them without a group."""
    pairs = len(next(iter(noise.values())))
    mine = own_part(pairs, group, "pairs of perturbations")
    return mine, {name: epsilon[mine.rows] for name, epsilon in noise.items()}


def losses_of_all(losses: Tensor, mine: Part, group: ProcessGroup | None) -> Tensor:
    """E⁺ and then E⁻ of a rank's n pairs, shape (2 n,), of all N: (2 N,)."""
    return gathered(torch.stack(losses.chunk(2), dim=1), mine, group).T.flatten()


def by_name(sigma: Sigma, leaves: Tensors) -> Mapping[str, float]:
    """σ of each hyperparameter.

    Raises:
        ValueError: it is given by name, and one is missing.
    """
    if not isinstance(sigma, Mapping):
        return dict.fromkeys(leaves, sigma)
    if missing := sorted(set(leaves) - set(sigma)):
        raise ValueError(
            f"sigma needs a value for every hyperparameter, but has none for {missing} "
            f"(it has {sorted(sigma)}): add it, or give one number for all"
        )
    return sigma


@dataclass(frozen=True)
class Population:
    """Runs at λ + ε_1 … λ + ε_N, λ - ε_1 … λ - ε_N, in this order.

    States have a leading dimension 2 N. Data and randomness are the same for all.

    Attributes:
        problem: what is trained.
        moved: λ ± ε: name -> shape (2 N, *shape).
        fixed: the other hyperparameters.
        vectorized: whether runs go by `torch.func.vmap`, or one after the other.
    """

    problem: BilevelProblem
    moved: Tensors
    fixed: Hparams
    vectorized: bool

    @classmethod
    def around(
        cls, problem: BilevelProblem, hparams: Hparams, noise: Tensors, vectorized: bool
    ) -> "Population":
        """The population at λ ± ε."""
        hparams = detach(hparams)
        moved = {
            name: torch.cat([hparams[name] + epsilon, hparams[name] - epsilon])
            for name, epsilon in noise.items()
        }
        fixed = {name: hparams[name] for name in hparams if name not in moved}
        return cls(problem, moved, fixed, vectorized)

    def start(self) -> State:
        """The states at the start of training."""
        return self._each(self.problem.init)

    def advance(self, states: State, t: int, steps: int) -> State:
        """The states `steps` steps after t."""
        batches = map(self.problem.batch, range(t, t + steps))
        if self.vectorized and isinstance(self.problem.step, Compiled):
            return self._compiled()(states, (self.moved, self.fixed), batches)
        for batch in batches:
            states = self._step(states, batch)
        return states

    def losses(
        self, states: State, outer_loss: Callable[[State, Hparams], Tensor]
    ) -> Tensor:
        """E of each, shape (2 N,)."""
        return self._each(lambda h, s: outer_loss(s, h), states)

    def _compiled(self) -> Recurrence:
        """All steps at once, as one program."""
        problem = self.problem

        def step(
            states: State, hparams: tuple[Tensors, Hparams], batch: Batch
        ) -> State:
            return Population(problem, *hparams, vectorized=True)._step(states, batch)

        steps = Recurrence(step, compiled=True)
        return problem.traced.setdefault("population", steps)

    def _step(self, states: State, batch: Batch) -> State:
        return self._each(lambda h, s: self.problem.step(s, h, batch), states)

    def _each(self, function: Callable[..., Any], *args: State) -> Any:
        """function(λ ± ε_i, *args[i]) for all i, stacked."""

        def at(moved: Tensors, *args: State) -> Any:
            return function({**self.fixed, **moved}, *args)

        run = _vectorized if self.vectorized else _one_by_one
        return detach(run(at, (self.moved, *args)))


def _vectorized(function: Callable[..., Any], args: tuple) -> Any:
    try:
        return vmap(function, randomness="same")(*args)
    except RuntimeError as error:
        raise ValueError(
            "the perturbed runs cannot be vectorized: "
            f"{str(error).splitlines()[0]}: use vectorized=False"
        ) from error


def _one_by_one(function: Callable[..., Any], args: tuple) -> Any:
    rows = [
        detach(function(*tree_map(lambda x, i=i: x[i], args)))
        for i in range(len(tree_leaves(args)[0]))
    ]
    return tree_map(lambda *leaves: torch.stack(leaves), *rows)
