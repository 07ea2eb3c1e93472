"""Short-term hypergradients: online, a few steps ahead."""

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, cast

import torch
from torch import Tensor

from raymeta._tree import detach, tree_leaves
from raymeta.distributed.collectives import require_functional
from raymeta.distributed.sharded import full
from raymeta.hypergrad.base import (
    Hypergradient,
    Rollout,
    differentiable,
    disconnected,
    look_ahead_cost,
    outer_loss_cost,
    outer_loss_of,
    pull_back,
    require_settings,
    require_share,
    start,
    unroll,
    validation_batch,
)
from raymeta.hypergrad.compiled import compiled
from raymeta.hypergrad.preflight import Through, differentiating, require_sound
from raymeta.problem import BilevelProblem, Descent, TrainState
from raymeta.types import Batch, Hparams, State, Tensors

HINT = "; what acts on the start of training alone has no short-term effect"


class Slope(NamedTuple):
    """The gradient of the next step, known as that of the last step's outer loss.

    Attributes:
        grads: ∇f(w_t, b_t), by parameter's name.
        buffers: the module's buffers after b_t.
        index: t, an int64 tensor of shape ().
    """

    grads: Tensors
    buffers: Tensors
    index: Tensor  # type: ignore[assignment]  # hides tuple.index


class Shared(NamedTuple):
    """What is carried along where an estimate and the next share a gradient.

    Attributes:
        slope: None before the first estimate.
    """

    slope: Slope | None


@dataclass(frozen=True)
class ShortTerm:
    r"""Short-term hypergradient: looks a few steps ahead.

    $$ \frac{dE(s_{t+1})}{d\lambda} \approx \nabla E(s_{t+1}) \,
       \frac{\partial \Phi(s_t, \lambda, b_t)}{\partial \lambda} $$

    with s_t held fixed. For the learning rate of SGD it is Baydin et al.'s
    $-\nabla E(w_{t+1}) \cdot \nabla f(w_t)$. Each estimate continues training.

    With `loss="next_batch"` E is the training loss $f(w_{t+1}, \lambda, b_{t+1})$ of
    the batch that comes next, as in both papers. Its gradient is the one that the next
    step descends along, so where λ acts through the update u alone, a hypergradient
    costs no pass of the network but only the derivative of u, element by element:

    $$ w_{t+1} = u(w_t, g_t, \lambda),\quad g_{t+1} = \nabla f(w_{t+1}, b_{t+1}),\quad
       \frac{dE}{d\lambda} = g_{t+1} \cdot \frac{\partial u}{\partial\lambda} $$

    This holds for one step of a `Descent` whose inner loss λ is not in; elsewhere
    gradients are not shared, and the same derivative costs more: see `cost`.

    Attributes:
        steps: how many steps to look ahead; 1 by default.
        loss: E: the problem's "outer" loss by default, or that of the "next_batch".
            `Hypergradient.outer_loss` then is that of a minibatch, as noisy as one.
        compile: run the steps and their derivatives as machine code; see `compiled`.
        val_share: what looking at E may cost, as a share of the cost of the steps and
            their derivatives. Where E is a mean over validation examples
            (`ValidationLoss`) that costs more, each estimate looks at a batch of them,
            a function of t, and `Hypergradient.outer_loss` is the mean over these. None
            for all examples, always.
        adaptive: whether a descent looks farther ahead where longer looks disagree with
            short ones and its runs get no better; see `raymeta.outer.look_ahead`.

    Raises:
        ValueError: another loss; no inner loss to take the next batch's from; a share
            that is not positive.

    Source: Baydin et al. 2018, eq. 5-6; Chandra et al. 2022 for any hyperparameter.
    """

    steps: int = 1
    loss: Literal["outer", "next_batch"] = "outer"
    compile: bool = False
    val_share: float | None = None
    adaptive: bool = False
    continues: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_settings(self)
        if self.loss not in ("outer", "next_batch"):
            raise ValueError(
                "ShortTerm needs loss='outer' or loss='next_batch', but got "
                f"loss={self.loss!r}"
            )
        require_share("ShortTerm", self.val_share)

    @differentiating
    def init(self, problem: BilevelProblem, hparams: Hparams) -> Rollout:
        """Training stands at s_0(λ); how to go on is carried along.

        Raises:
            ValueError: E is the next batch's loss, but the problem has no inner loss.
        """
        if self.loss == "next_batch" and problem.inner_loss is None:
            raise ValueError(
                "ShortTerm needs the problem's inner_loss for loss='next_batch', but "
                "got none: give it, or use loss='outer'"
            )
        require_sound(problem, hparams)
        first = look_ahead_cost(problem, hparams, 1)
        if first > 1 or self.steps > 1:
            through: Through = "hparams" if self.steps == 1 else "state"
            require_sound(problem, hparams, through=through)
        if self.compile:
            require_functional(problem)
        carry = Shared(None) if self._shares(problem, hparams, first) else first
        return start(problem, hparams)._replace(carry=carry)

    @differentiating
    def estimate(
        self, problem: BilevelProblem, hparams: Hparams, rollout: Rollout
    ) -> tuple[Hypergradient, Rollout]:
        """dE/dλ over the next `steps` steps; the rollout goes on from there."""
        problem = compiled(problem, self.compile)
        if isinstance(rollout.carry, Shared):
            return _share(problem, hparams, rollout)
        leaves = differentiable(hparams)
        live = {**hparams, **leaves}
        state, t = rollout.state, rollout.step + self.steps
        cost = rollout.carry + 3 * (self.steps - 1)
        count = validation_batch(problem, self.val_share, cost)
        state = unroll(problem, live, state, rollout.step, self.steps)
        if self.loss == "next_batch":
            assert problem.inner_loss is not None
            outer_loss = problem.inner_loss(state, live, problem.batch(t))
        else:
            look = outer_loss_of(problem, count, rollout.step // self.steps)
            outer_loss = look(state, live)
        grads = pull_back(outer_loss, leaves, HINT)
        cost += self._outer_cost(problem, count)
        return (
            Hypergradient(outer_loss.detach(), grads, cost),
            Rollout(detach(state), t, rollout.carry),
        )

    def cost(self, problem: BilevelProblem, hparams: Hparams) -> float:
        """1 for the first step, 3 for each further one, and the outer gradient.

        3 for the first one too where λ is in the inner loss (see `look_ahead_cost`).
        Where gradients are shared, 1 in all; the first estimate of a run charges 1
        more, for the gradient that it starts from.
        """
        cost = look_ahead_cost(problem, hparams, self.steps)
        if self._shares(problem, hparams, cost):
            return 1.0
        count = validation_batch(problem, self.val_share, cost)
        return cost + self._outer_cost(problem, count)

    def _shares(self, problem: BilevelProblem, hparams: Hparams, cost: float) -> bool:
        """Whether E's gradient is the one that the next step descends along."""
        if self.loss == "outer" or self.steps > 1:
            return False
        descends = cost == 1 and isinstance(problem.step, Descent)
        return descends and _follows_inner_loss(problem, hparams)

    def _outer_cost(self, problem: BilevelProblem, count: int | None) -> float:
        return outer_loss_cost(problem, count) if self.loss == "outer" else 1.0


def _follows_inner_loss(problem: BilevelProblem, hparams: Hparams) -> bool:
    """Whether training gradients are the inner loss's, which hooks and stops bend."""
    if "follows" not in problem.traced:
        assert problem.inner_loss is not None
        state, batch = detach(problem.init(hparams)), problem.batch(0)
        assert isinstance(problem.step, Descent)
        taken = _slope(problem.step, state, hparams, batch)[1].grads
        params = {k: w.detach().requires_grad_() for k, w in state.params.items()}
        with torch.enable_grad():
            loss = problem.inner_loss(state._replace(params=params), hparams, batch)
            own = torch.autograd.grad(
                loss, list(params.values()), materialize_grads=True
            )
        pairs = zip(taken.values(), own, strict=True)
        problem.traced["follows"] = all(torch.equal(g, other) for g, other in pairs)
    return problem.traced["follows"]


def _share(
    problem: BilevelProblem, hparams: Hparams, rollout: Rollout
) -> tuple[Hypergradient, Rollout]:
    """One step along the known gradient, and the gradient of the next one."""
    descent, cost = problem.step, 1.0
    assert isinstance(descent, Descent)
    state, t, (slope,) = rollout
    if slope is None:
        cost, (_, slope) = 2.0, _slope(descent, state, hparams, problem.batch(t))
    leaves = differentiable(hparams)
    params, memory = descent.rule({**hparams, **leaves}).update(
        slope.grads, state.memory, state.params, slope.index
    )
    fixed = {name: w.detach() for name, w in params.items()}
    state = TrainState(fixed, _cut(memory), slope.buffers)
    outer_loss, slope = _slope(descent, state, hparams, problem.batch(t + 1))
    grads = _pull_back(params, slope.grads, leaves)
    return (
        Hypergradient(outer_loss, grads, cost),
        Rollout(state, t + 1, Shared(slope)),
    )


def _slope(
    descent: Descent, state: TrainState, hparams: Hparams, batch: Batch
) -> tuple[Tensor, Slope]:
    """f(w_t, b_t), and its gradient."""
    with torch.no_grad():
        loss, grads, buffers = descent.value_and_gradient(
            state.params, state.buffers, hparams, batch
        )
    return loss, Slope(grads, buffers, batch.index)


def _cut(memory: State) -> State:
    """The memory without its graph; building a tree anew costs more than a look."""
    attached = any(
        isinstance(leaf, Tensor) and leaf.requires_grad for leaf in tree_leaves(memory)
    )
    return detach(memory) if attached else memory


def _pull_back(params: Tensors, slope: Tensors, leaves: Tensors) -> Tensors:
    """∇f(w) · ∂w/∂λ."""
    moved = [name for name, w in params.items() if w.requires_grad]
    grads: tuple[Tensor | None, ...] = (None,) * len(leaves)
    if moved:
        grads = torch.autograd.grad(
            [params[name] for name in moved],
            list(leaves.values()),
            [slope[name] for name in moved],
            allow_unused=True,
        )
    found = dict(zip(leaves, map(full, grads), strict=True))
    missing = [name for name, grad in found.items() if grad is None]
    if missing:
        raise disconnected(missing, HINT)
    return cast(Tensors, found)
