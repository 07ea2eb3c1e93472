"""Implicit differentiation at the end of training."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from raymeta._tree import detach
from raymeta.autograd.double_backward import marked_backward_passes
from raymeta.autograd.stop_gradient import inner_gradient
from raymeta.distributed.collectives import require_functional
from raymeta.distributed.sharded import require_unsharded
from raymeta.hypergrad.base import (
    Hypergradient,
    Rollout,
    advance,
    differentiable,
    estimated_loss_cost,
    outer_loss_at,
    pull_back,
    require_settings,
    start,
)
from raymeta.hypergrad.compiled import compiled
from raymeta.hypergrad.linear_solvers import ConjugateGradient, Solver
from raymeta.hypergrad.preflight import (
    differentiating,
    require_pullback,
    require_sound,
)
from raymeta.optim.base import as_real, like
from raymeta.problem import BilevelProblem, TrainState
from raymeta.types import Batch, Hparams, Tensors


@dataclass(frozen=True)
class Implicit:
    r"""Implicit hypergradient: how the minimum of the inner loss moves with λ.

    $$ \frac{dE}{d\lambda} = \frac{\partial E}{\partial\lambda}
       - v^\top \frac{\partial^2 f}{\partial w\,\partial\lambda},\qquad
       \frac{\partial^2 f}{\partial w^2}\, v = \frac{\partial E}{\partial w}
       \qquad \text{at } \frac{\partial f}{\partial w}(w_T, \lambda) = 0 $$

    f is the inner loss on the batch b_T: make it the full one. Memory does not grow
    with the number of steps. As good as w_T is stationary and the linear system solved;
    its residual is reported. What acts on the way to the minimum alone, a learning rate
    or the start, has no effect on it. Each estimate restarts training.

    Attributes:
        steps: T, the length of the run.
        solver: solves the linear system.
        compile: run the steps as machine code; see `compiled`.

    Source: Lorraine et al. 2020, Theorem 1 and Algorithm 2; Bengio 2000.
    """

    steps: int
    solver: Solver = field(default_factory=ConjugateGradient)
    compile: bool = False
    continues: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require_settings(self)

    @differentiating
    def init(self, problem: BilevelProblem, hparams: Hparams) -> Rollout:
        """Training stands at s_0(λ).

        Raises:
            ValueError: the problem has no inner loss, or no `TrainState`; neither the
                inner nor the outer loss depends on a hyperparameter.
        """
        return begin(self, problem, hparams)

    @differentiating
    def estimate(
        self, problem: BilevelProblem, hparams: Hparams, rollout: Rollout
    ) -> tuple[Hypergradient, Rollout]:
        """dE(w*, λ)/dλ near the w* that T steps from s_0(λ) lead to.

        Raises:
            ValueError: the solver did not converge.
        """
        state = detach(problem.init(hparams))
        state = advance(compiled(problem, self.compile), hparams, state, 0, self.steps)
        leaves = differentiable(hparams)
        live = {**hparams, **leaves}
        params = {k: w.detach().requires_grad_() for k, w in state.params.items()}
        at_minimum = state._replace(params=params)
        outer_loss = outer_loss_at(problem, hparams)(at_minimum, live)
        batch = problem.batch(self.steps)
        gradient = inner_gradients(problem, at_minimum, live, batch)
        solution = self.solver.solve(
            partial(hessian_product, gradient, params), flat_grad(outer_loss, params)
        )
        v = unflatten(solution.x, params)
        grads = pull_back_at_minimum(outer_loss - dot(v, gradient), leaves)
        cost = self._cost(problem, solution.products)
        return (
            Hypergradient(outer_loss.detach(), grads, cost, solution.residual),
            Rollout(state, self.steps),
        )

    def cost(self, problem: BilevelProblem, hparams: Hparams) -> float:
        """The most it can be: the estimate charges the products that it took.

        1 per step, 3 for ∂f/∂w and its derivative in λ, 2 per product with the Hessian,
        and the outer gradient.
        """
        return self._cost(problem, self.solver.iterations + 1)

    def _cost(self, problem: BilevelProblem, products: int) -> float:
        return self.steps + 3 + 2 * products + estimated_loss_cost(problem)


def begin(estimator: Any, problem: BilevelProblem, hparams: Hparams) -> Rollout:
    """Training at s_0(λ), for an estimator that differentiates at the inner minimum.

    Args:
        estimator: one with `compile`.
        problem: what is trained.
        hparams: λ.

    Raises:
        ValueError: the problem has no inner loss, or no `TrainState`; neither the inner
            nor the outer loss depends on a hyperparameter.
    """
    require_sound(problem, hparams)
    require_unsharded(problem, "linear solvers")
    if estimator.compile:
        require_functional(problem)
    rollout = start(problem, hparams)
    _require_stationarity(type(estimator).__name__, problem, rollout)
    leaves = differentiable(hparams)
    live = {**hparams, **leaves}
    params = {k: w.detach().requires_grad_() for k, w in rollout.state.params.items()}
    outer_loss = problem.outer_loss(rollout.state, live)
    with marked_backward_passes():
        at = rollout.state._replace(params=params)
        gradient = inner_gradients(problem, at, live, problem.batch(estimator.steps))
    require_pullback(gradient, [*params.values(), *leaves.values()])
    ones = {k: torch.ones_like(w) for k, w in params.items()}
    pull_back_at_minimum(outer_loss + dot(ones, gradient), leaves)
    return rollout


def inner_gradients(
    problem: BilevelProblem, state: TrainState, hparams: Hparams, batch: Batch
) -> Tensors:
    """∂f/∂w on a batch, with its graph."""
    inner_loss = problem.inner_loss
    assert inner_loss is not None
    with inner_gradient() as inner:
        # Views: weights may have been computed from one another.
        params = {
            k: w.view_as(w) if w.requires_grad else w.detach().requires_grad_()
            for k, w in state.params.items()
        }
        loss = inner_loss(state._replace(params=params), hparams, batch)
        if not loss.requires_grad:  # a loss that no parameter enters
            loss = loss + 0.0 * next(iter(params.values())).sum()
        with inner.being_taken():
            grads = torch.autograd.grad(
                loss,
                list(params.values()),
                create_graph=True,
                materialize_grads=True,
            )
    return dict(zip(params, grads, strict=True))


def _require_stationarity(name: str, problem: BilevelProblem, rollout: Rollout) -> None:
    if problem.inner_loss is None:
        raise ValueError(
            f"{name} needs the problem's inner_loss, whose minimum it differentiates, "
            "but got none: give it, or use Reverse"
        )
    if not isinstance(rollout.state, TrainState):
        raise ValueError(
            f"{name} needs a TrainState, whose params the inner loss is minimal in, "
            f"but got a {type(rollout.state).__name__}: use it, or Reverse"
        )


def pull_back_at_minimum(total: Tensor, leaves: Tensors) -> Tensors:
    """Derivatives in λ, with the hint for what has no effect there."""
    hint = (
        "; what acts on the way to the minimum alone (a learning rate, the start) has "
        "no implicit effect: use Reverse"
    )
    return pull_back(total, leaves, hint)


def hessian_product(gradient: Tensors, params: Tensors, v: Tensor) -> Tensor:
    """∂²f/∂w² v, flat, of ∂f/∂w with its graph."""
    return flat_grad(dot(unflatten(v, params), gradient), params)


def dot(one: Tensors, other: Tensors) -> Tensor:
    """The inner product of tensors by name, shape ()."""
    products = [(as_real(one[k]) * as_real(other[k])).sum() for k in one]
    return torch.stack(products).sum()


def flat_grad(value: Tensor, params: Tensors) -> Tensor:
    """The gradient in all of them, real numbers, shape (n,)."""
    grads = torch.autograd.grad(
        value, list(params.values()), retain_graph=True, materialize_grads=True
    )
    return torch.cat([as_real(g).flatten() for g in grads])


def unflatten(v: Tensor, params: Tensors) -> Tensors:
    """Of a flat vector the parts, by name."""
    parts = v.split([as_real(w).numel() for w in params.values()])
    return {
        k: like(part.view_as(as_real(w)), w)
        for (k, w), part in zip(params.items(), parts, strict=True)
    }
