"""Towers: hyperparameters that learn while training goes on, and so do theirs."""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

from torch import Tensor, full_like, zeros_like

from raymeta._tree import detach
from raymeta.hypergrad.base import differentiable, look_ahead_cost, pull_back
from raymeta.hypergrad.preflight import ordinary, recording, require_sound
from raymeta.hypergrad.short_term import HINT
from raymeta.optim import Optimizer
from raymeta.problem import BilevelProblem, Descent
from raymeta.space import Space
from raymeta.types import Batch, Hparams, State, Tensors


class TowerState(NamedTuple):
    """The state of training that learns its hyperparameters.

    Attributes:
        state: s_t of the training below; a `Judged` for `loss="next_batch"`.
        hparams: λ_t, those that are learnt, in natural values by name.
        coordinates: x_t, where the hyper-optimizer walks, by name: the unconstrained
            coordinates of λ_t, or λ_t itself without a space.
        memory: the hyper-optimizer's.
        grads: h_t = dE(s_t, λ_t)/dx_t with s_{t-1} held fixed, by name; zeros at first.
    """

    state: State
    hparams: Tensors
    coordinates: Tensors
    memory: State
    grads: Tensors


class Judged(NamedTuple):
    """The state of training that is judged by the batch to come.

    Attributes:
        state: s_t of the training itself.
        batch: b_t.
    """

    state: State
    batch: Batch


def tower(
    problem: BilevelProblem,
    hparams: Hparams,
    optimizer: Callable[[Hparams], Optimizer],
    *,
    space: Space | None = None,
    loss: Literal["outer", "next_batch"] = "outer",
) -> BilevelProblem:
    r"""Training whose hyperparameters learn, as a problem with hyperparameters κ.

    $$ x_{t+1} = u(x_t, h_t, \kappa),\quad
       s_{t+1} = \Phi(s_t, \lambda(x_{t+1}), b_t),\quad
       h_{t+1} = \frac{\partial}{\partial x_{t+1}}
                 E\bigl(\Phi(s_t, \lambda(x_{t+1}), b_t), \lambda(x_{t+1})\bigr) $$

    with u the update of a hyper-optimizer, h_0 = 0, and the outer loss E(s_T, λ(x_T)).
    To train by it is to take its steps at a κ that stays as it is; λ_t is in the
    `TowerState`. To learn κ, any estimator will do: `ShortTerm` holds h_t fixed, as the
    paper does, while `Reverse` and `Forward` go through all of the run. A tower of a
    tower learns κ while training goes on, and so to any height, for one more pass of E
    a step each.

    Args:
        problem: what is trained.
        hparams: λ_0 in natural values; floating-point tensors are learnt.
        optimizer: κ -> the hyper-optimizer, for example
            `lambda kappa: raymeta.optim.sgd(kappa["hyper_lr"])`. Its parameters are the
            hyperparameters by name, so that a setting may differ between them.
        space: the search space of λ, to walk in its unconstrained coordinates and
            within its bounds; None walks in natural values, without bounds.
        loss: E: the problem's "outer" loss by default, or the training loss of the
            "next_batch", as in the paper.

    Returns:
        A problem whose steps are the unit of what estimates charge: each costs
        1 + `outer_cost` of `problem`, and 2 more where λ is in its inner loss.

    Raises:
        ValueError: E after a step does not depend on a hyperparameter, or there is
            none; λ_0 does not fit the space; another loss, or no inner loss to take the
            next batch's from.

    Source: Chandra et al. 2022, "Stacking hyperoptimizers recursively".
    """
    if loss == "next_batch":
        problem = _judged_by_next_batch(problem)
    elif loss != "outer":
        raise ValueError(
            f"tower needs loss='outer' or loss='next_batch', but got loss={loss!r}"
        )
    hparams = ordinary(hparams)
    if space is not None:
        hparams = space.trim(hparams)
    require_sound(problem, hparams)
    learnt = detach(differentiable(hparams))
    start, natural, project = _walk(space, learnt, hparams)

    def look_ahead(
        x: Tensors, state: State, kappa: Hparams, batch: Batch
    ) -> tuple[Tensor, State]:
        live = {**hparams, **natural(x)}
        state = problem.step(state, live, batch)
        return problem.outer_loss(state, live), state

    # In x, with the training below in the place of a module's buffers.
    descent = Descent(look_ahead, optimizer)

    def init(kappa: Hparams) -> TowerState:
        memory = optimizer(kappa).init(start)
        zeros = {name: zeros_like(value) for name, value in start.items()}
        return TowerState(problem.init(hparams), learnt, start, memory, zeros)

    def step(s: TowerState, kappa: Hparams, batch: Batch) -> TowerState:
        x, memory = optimizer(kappa).update(
            s.grads, s.memory, s.coordinates, batch.index
        )
        x = project(x)
        h, state = descent.gradient(x, s.state, kappa, batch)
        return TowerState(state, natural(x), x, memory, h)

    def outer_loss(s: TowerState, kappa: Hparams) -> Tensor:
        return problem.outer_loss(s.state, {**hparams, **s.hparams})

    def metrics(s: TowerState, kappa: Hparams) -> Tensors:
        assert problem.metrics is not None
        return problem.metrics(s.state, {**hparams, **s.hparams})

    first = look_ahead_cost(problem, hparams, 1)
    if first > 1:
        require_sound(problem, hparams, through="hparams")
    with recording():
        x_0, s_0 = differentiable(start), detach(problem.init(hparams))
        # A hypergradient that is 0 for ever looks like a true 0: ask once.
        pull_back(look_ahead(x_0, s_0, {}, problem.batch(0))[0], x_0, HINT)
    return BilevelProblem(
        init=init,
        batch=problem.batch,
        step=step,
        outer_loss=outer_loss,
        inner_loss=lambda s, kappa, _: outer_loss(s, kappa),
        outer_cost=(first - 1 + problem.outer_cost) / (first + problem.outer_cost),
        metrics=None if problem.metrics is None else metrics,
    )


class _Walk(NamedTuple):
    """Where a hyper-optimizer walks: x_0, λ(x), and the nearest x within bounds."""

    start: Tensors
    natural: Callable[[Tensors], Tensors]
    project: Callable[[Tensors], Tensors]


def _walk(space: Space | None, learnt: Tensors, hparams: Hparams) -> _Walk:
    if space is None:
        return _Walk(learnt, lambda x: x, lambda x: x)
    start = space.unconstrained({**hparams, **learnt})
    low, high = (
        space.project({name: full_like(x, end) for name, x in start.items()})
        for end in (-math.inf, math.inf)
    )

    def project(x: Tensors) -> Tensors:
        return {name: x[name].clamp(low[name], high[name]) for name in x}

    return _Walk(start, space.natural, project)


def _judged_by_next_batch(problem: BilevelProblem) -> BilevelProblem:
    """The same training, with E(s_t, λ) = f(s_t, λ, b_t)."""
    inner_loss = problem.inner_loss
    if inner_loss is None:
        raise ValueError(
            "tower needs the problem's inner_loss for loss='next_batch', but got none: "
            "give it, or use loss='outer'"
        )

    def batch(t: int) -> Batch:
        following = problem.batch(t + 1)
        return Batch(following.index - 1, following)

    def step(s: Judged, hparams: Hparams, batch: Batch) -> Judged:
        return Judged(problem.step(s.state, hparams, s.batch), batch.data)

    def outer_loss(s: Judged, hparams: Hparams) -> Tensor:
        return inner_loss(s.state, hparams, s.batch)

    def metrics(s: Judged, hparams: Hparams) -> Tensors:
        assert problem.metrics is not None
        return problem.metrics(s.state, hparams)

    return BilevelProblem(
        init=lambda hparams: Judged(problem.init(hparams), problem.batch(0)),
        batch=batch,
        step=step,
        outer_loss=outer_loss,
        inner_loss=lambda s, hparams, _: outer_loss(s, hparams),
        metrics=None if problem.metrics is None else metrics,
    )
