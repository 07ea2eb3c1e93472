"""SOBA: weights, linear system and hyperparameters that move together."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from raymeta._tree import detach
from raymeta.hypergrad.base import (
    Hypergradient,
    Rollout,
    advance,
    differentiable,
    outer_loss_cost,
    outer_loss_of,
    require_settings,
    validation_batch,
)
from raymeta.hypergrad.compiled import compiled
from raymeta.hypergrad.implicit import (
    begin,
    dot,
    flat_grad,
    hessian_product,
    inner_gradients,
    pull_back_at_minimum,
    unflatten,
)
from raymeta.hypergrad.preflight import differentiating
from raymeta.optim.base import as_real
from raymeta.problem import BilevelProblem
from raymeta.types import Hparams, Tensors


class Direction(NamedTuple):
    """What is carried along.

    Attributes:
        v: the solution of the linear system so far, flat, shape (n,).
    """

    v: Tensor


@dataclass(frozen=True)
class SOBA:
    r"""Stochastic bilevel hypergradient: implicit, in one loop with the training.

    $$ w_{t+1} = \Phi(w_t, \lambda, b_t),\qquad
       v_{t+1} = v_t - \rho \left(\frac{\partial^2 f}{\partial w^2} v_t
       - \frac{\partial E}{\partial w}\right),\qquad
       \frac{dE}{d\lambda} \approx \frac{\partial E}{\partial\lambda}
       - v_{t+1}^\top \frac{\partial^2 f}{\partial w\,\partial\lambda} $$

    with derivatives of f on the next batch and of E on validation examples, a batch of
    them where the problem says so (`val_batches`). Each estimate continues training,
    and the linear system from where it was, so that none is solved anew: the
    hypergradient is as good as both have come to rest, and `Hypergradient.residual`
    tells of the second, |∂E/∂w - ∂²f/∂w² v| / |∂E/∂w| before it moved. What acts on the
    way to the minimum alone, a learning rate or the start, has no effect on it.

    Attributes:
        steps: training steps, and steps of v, of an estimate; 1 by default.
        lr: ρ. None: that of steepest descent, rᵀr / rᵀ(∂²f/∂w²)r for the residual r,
            which costs one more product; v stays where curvature along r is negative.
        compile: run the training steps as machine code; see `compiled`.

    Raises:
        ValueError: ρ that is not positive; see `Implicit`.

    Source: Dagréou et al. 2022, Algorithm 1, with the directions of SOBA (eq. 7).
    """

    steps: int = 1
    lr: float | None = None
    compile: bool = False
    continues: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_settings(self)
        if self.lr is not None and not self.lr > 0:
            raise ValueError(
                f"SOBA needs lr > 0, but got lr={self.lr}: leave it out for that of "
                "steepest descent"
            )

    @differentiating
    def init(self, problem: BilevelProblem, hparams: Hparams) -> Rollout:
        """Training stands at s_0(λ), the linear system at 0."""
        rollout = begin(self, problem, hparams)
        flat = [as_real(w).flatten() for w in rollout.state.params.values()]
        return rollout._replace(carry=Direction(torch.zeros_like(torch.cat(flat))))

    @differentiating
    def estimate(
        self, problem: BilevelProblem, hparams: Hparams, rollout: Rollout
    ) -> tuple[Hypergradient, Rollout]:
        """dE(s_{t+K}, λ)/dλ as far as v has come; training goes on from there."""
        trained = compiled(problem, self.compile)
        leaves = differentiable(hparams)
        live = {**hparams, **leaves}
        state, v, end = rollout.state, rollout.carry.v, rollout.step + self.steps
        count = validation_batch(problem)
        for t in range(rollout.step, end):
            state = advance(trained, hparams, state, t, 1)
            params = {k: w.detach().requires_grad_() for k, w in state.params.items()}
            at = state._replace(params=params)
            outer_loss = outer_loss_of(problem, count, t)(at, live)
            gradient = inner_gradients(problem, at, live, problem.batch(t + 1))
            b = flat_grad(outer_loss, params)
            residual = b - hessian_product(gradient, params, v)
            v = v + self._rate(gradient, params, residual) * residual
        total = outer_loss - dot(unflatten(v, params), gradient)
        grads = pull_back_at_minimum(total, leaves)
        size = float(residual.norm() / b.norm()) if b.any() else 0.0
        found = Hypergradient(
            outer_loss.detach(), grads, self.cost(problem, hparams), size
        )
        return found, Rollout(detach(state), end, Direction(v))

    def cost(self, problem: BilevelProblem, hparams: Hparams) -> float:
        """By step 1 for training, 1 for ∂f/∂w, 2 by product with the Hessian, and E's.

        And 2 for the derivative in λ at the end.
        """
        products = 2 if self.lr is None else 1
        looks = outer_loss_cost(problem, validation_batch(problem))
        return self.steps * (2 + 2 * products + looks) + 2

    def _rate(self, gradient: Tensors, params: Tensors, residual: Tensor) -> Tensor:
        if self.lr is not None:
            return residual.new_tensor(self.lr)
        curvature = residual @ hessian_product(gradient, params, residual)
        return torch.where(curvature > 0, residual @ residual / curvature, 0.0)
