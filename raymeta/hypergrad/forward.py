"""Forward mode: dual numbers threaded through back-propagation."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.func import jvp, vmap

from raymeta.hypergrad.base import (
    Hypergradient,
    Rollout,
    differentiable,
    disconnected,
    require_steps,
)
from raymeta.problem import BilevelProblem
from raymeta.tree import detach, partition
from raymeta.types import Batch, Hparams, Tensors


@dataclass(frozen=True)
class Forward:
    r"""Forward-mode hypergradient: carries ds_t/dλ along with training.

    $$ Z_{t+1} = A_{t+1} Z_t + B_{t+1},\qquad
       \frac{dE}{d\lambda} = \nabla E(s_T) Z_T + \frac{\partial E}{\partial\lambda},
       \qquad Z = ds/d\lambda $$

    Memory does not grow with the number of steps; time and memory grow with the number
    of scalar hyperparameters, whose tangents advance in one vectorized pass. Continued
    from its own rollout it is real-time hyperparameter optimization (RTHO).

    Attributes:
        steps: how many steps one estimate advances; T for a whole run.

    Source: Franceschi et al. 2017, Algorithm 2 (Forward-HG) and section 3.3 (RTHO).
    """

    steps: int
    continues: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_steps("Forward", self.steps)

    def init(self, problem: BilevelProblem, hparams: Hparams) -> Rollout:
        """Training stands at s_0(λ), with ds_0/dλ carried along.

        Raises:
            ValueError: the run does not depend on a hyperparameter.
        """
        _require_connected(problem, hparams)
        leaves = differentiable(hparams)

        def start(live: Tensors) -> tuple[list[Tensor], Any]:
            values, rest, _ = partition(problem.init({**hparams, **live}))
            return values, rest

        tangents = _push(start, (leaves,), (_basis(leaves),))[1]
        return Rollout(detach(problem.init(hparams)), 0, tangents)

    def estimate(
        self, problem: BilevelProblem, hparams: Hparams, rollout: Rollout
    ) -> tuple[Hypergradient, Rollout]:
        """dE/dλ after `steps` more steps, through all steps since s_0."""
        leaves = {k: v.detach() for k, v in differentiable(hparams).items()}
        state, tangents, basis = rollout.state, rollout.carry, _basis(leaves)
        for t in range(rollout.step, rollout.step + self.steps):
            state, tangents = _step(
                problem, hparams, state, tangents, problem.batch(t), leaves, basis
            )
        outer_loss, grads = _contract(problem, hparams, state, tangents)
        cost = self.cost(problem, hparams)
        return (
            Hypergradient(outer_loss, grads, cost),
            Rollout(state, rollout.step + self.steps, tangents),
        )

    def cost(self, problem: BilevelProblem, hparams: Hparams) -> float:
        """(1 + 2 K) per step for K tangents, and the outer gradient."""
        k = sum(leaf.numel() for leaf in differentiable(hparams).values())
        return (1 + 2 * k) * self.steps + problem.outer_cost


def _basis(leaves: Tensors) -> Tensors:
    """One tangent per scalar of λ: name -> shape (K, *shape), together the identity."""
    sizes = [leaf.numel() for leaf in leaves.values()]
    some = next(iter(leaves.values()))
    identity = torch.eye(sum(sizes), dtype=some.dtype, device=some.device)
    blocks = identity.split(sizes, dim=1)
    return {
        name: block.reshape(-1, *leaf.shape).to(leaf.dtype)
        for (name, leaf), block in zip(leaves.items(), blocks, strict=True)
    }


def _push(function: Any, primals: tuple, tangents: tuple) -> tuple[Any, Any, Any]:
    """One primal pass, K tangents: ((leaves, rest), tangents of the leaves).

    `function` returns (leaves, rest); tangents have a leading dimension K.
    """

    def along(tangents: tuple) -> tuple[Any, Any, Any]:
        values, new_tangents, rest = jvp(function, primals, tangents, has_aux=True)  # type: ignore[misc]
        # In vmap, the tangent of 2.0 * λ is float64 for a float32 λ of shape ().
        pairs = zip(values, new_tangents, strict=True)
        return values, [z.to(value.dtype) for value, z in pairs], rest

    # The primal does not depend on the tangent: vmap computes it once (out_dims None).
    out_dims: Any = (None, 0, None)
    return vmap(along, out_dims=out_dims, randomness="same")(tangents)


def _step(
    problem: BilevelProblem,
    hparams: Hparams,
    state: Any,
    tangents: list[Tensor],
    batch: Batch,
    leaves: Tensors,
    basis: Tensors,
) -> tuple[Any, list[Tensor]]:
    values, rest, merge = partition(state)
    data, indices, merge_data = partition(batch.data)

    def advance(
        values: list[Tensor], live: Tensors, data: list[Tensor]
    ) -> tuple[list[Tensor], Any]:
        at = batch._replace(data=merge_data(data, indices))
        new = problem.step(merge(values, rest), {**hparams, **live}, at)
        new_values, new_rest, _ = partition(new)
        return new_values, new_rest

    # Data have tangents of their own, zeros: torch's forward derivative of some losses
    # (mse_loss) fails where one argument has a tangent and the other none.
    count = len(next(iter(basis.values())))
    still = [torch.zeros_like(leaf).expand(count, *leaf.shape) for leaf in data]
    try:
        new_values, new_tangents, new_rest = _push(
            advance, (values, leaves, data), (tangents, basis, still)
        )
    except NotImplementedError as error:
        raise ValueError(
            "Forward needs operators with a forward derivative, but torch says: "
            f"{str(error).splitlines()[0]}; write the operator out, or use Reverse"
        ) from error
    return detach(merge(new_values, new_rest)), detach(new_tangents)


def _contract(
    problem: BilevelProblem, hparams: Hparams, state: Any, tangents: list[Tensor]
) -> tuple[Tensor, Tensors]:
    """E and ∇E Z + ∂E/∂λ, one number per scalar of λ."""
    values, rest, merge = partition(state)
    values = [value.detach().requires_grad_() for value in values]
    leaves = differentiable(hparams)
    outer_loss = problem.outer_loss(merge(values, rest), {**hparams, **leaves})
    inputs = [*values, *leaves.values()]
    grads = torch.autograd.grad(outer_loss, inputs, materialize_grads=True)
    through_state = sum(
        z.reshape(len(z), -1) @ g.flatten()
        for g, z in zip(grads[: len(values)], tangents, strict=True)
    )
    assert isinstance(through_state, Tensor)
    sizes = [leaf.numel() for leaf in leaves.values()]
    parts = through_state.split(sizes)
    direct = grads[len(values) :]
    return outer_loss.detach(), {
        name: part.reshape(leaf.shape) + g
        for (name, leaf), part, g in zip(leaves.items(), parts, direct, strict=True)
    }


def _require_connected(problem: BilevelProblem, hparams: Hparams) -> None:
    """A tangent that is 0 for ever looks like a true 0: ask reverse mode once."""
    leaves = differentiable(hparams)
    live = {**hparams, **leaves}
    state = problem.step(problem.init(live), live, problem.batch(0))
    ends = [*partition(state)[0], problem.outer_loss(state, live)]
    ends = [end.sum() for end in ends if end.requires_grad]
    grads: tuple[Tensor | None, ...] = (None,) * len(leaves)
    if ends:
        total = torch.stack([end.to(ends[0].dtype) for end in ends]).sum()
        grads = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    missing = [name for name, g in zip(leaves, grads, strict=True) if g is None]
    if missing:
        raise disconnected(missing)
