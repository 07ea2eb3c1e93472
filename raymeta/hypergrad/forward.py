"""Forward mode: dual numbers threaded through back-propagation."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from raymeta._tree import detach, partition
from raymeta.compile.recurrence import Recurrence
from raymeta.compile.trace import Untraceable
from raymeta.distributed.collectives import require_functional
from raymeta.distributed.conjugate import default_group
from raymeta.distributed.preflight import require_same_start
from raymeta.distributed.shares import Part, gathered, own_part
from raymeta.hypergrad import dual_numbers
from raymeta.hypergrad.base import (
    Hypergradient,
    Rollout,
    differentiable,
    disconnected,
    outer_loss_cost,
    outer_loss_of,
    require_settings,
    require_share,
    validation_batch,
)
from raymeta.hypergrad.dot_product_test import require_agreement
from raymeta.hypergrad.preflight import differentiating, require_real, require_sound
from raymeta.optim.base import as_real
from raymeta.problem import BilevelProblem, known
from raymeta.types import Hparams, State, Tensors


@dataclass(frozen=True)
class Forward:
    r"""Forward-mode hypergradient: carries ds_t/dλ along with training.

    $$ Z_{t+1} = A_{t+1} Z_t + B_{t+1},\qquad
       \frac{dE}{d\lambda} = \nabla E(s_T) Z_T + \frac{\partial E}{\partial\lambda},
       \qquad Z = ds/d\lambda $$

    Memory does not grow with the number of steps; time and memory grow with the number
    of scalar hyperparameters, whose tangents advance in one vectorized pass. Continued
    from its own rollout it is real-time hyperparameter optimization (RTHO).

    The step of dual numbers is traced once and its operators are replayed, so Φ must be
    pure; where its operators depend on values of tensors it runs anew each time.

    Attributes:
        steps: how many steps one estimate advances; T for a whole run.
        chunk: how many tangents at a time, all if None: less memory within a step, for
            one more plain pass per chunk.
        compile: translate the step of dual numbers to machine code.
        val_share: see `ShortTerm.val_share`.
        group: ranks that share the tangents, see `split`; None for this process alone.

    Source: Franceschi et al. 2017, Algorithm 2 (Forward-HG) and section 3.3 (RTHO).
    """

    steps: int
    chunk: int | None = None
    compile: bool = False
    val_share: float | None = None
    group: ProcessGroup | None = field(default=None, repr=False, compare=False)
    continues: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_settings(self)
        require_share("Forward", self.val_share)
        if self.chunk is not None and self.chunk < 1:
            raise ValueError(
                f"Forward needs chunk >= 1, but got chunk={self.chunk}: leave it out "
                "for all tangents at once"
            )

    def split(self, group: ProcessGroup | None = None) -> "Forward":
        """The same, its K tangents shared out among W ranks: K/W each.

        Every rank computes the run itself and carries its own tangents; one sum over
        ranks at the end of an estimate puts dE/dλ together. Charges stay those of one
        process; time falls.

        Args:
            group: the ranks; all by default. Each has the same problem and λ.

        Raises:
            ValueError: this process is in no group. From `init`: there are fewer
                scalar hyperparameters than ranks; ranks have other hyperparameters,
                weights or data.
        """
        return replace(self, group=default_group(group, "Forward.split"))

    @differentiating
    def init(self, problem: BilevelProblem, hparams: Hparams) -> Rollout:
        """Training stands at s_0(λ), with ds_0/dλ carried along.

        Raises:
            ValueError: the run does not depend on a hyperparameter; there are too many
                hyperparameters; torch's forward derivatives of a step are wrong.
        """
        leaves = differentiable(hparams)
        require_real("Forward", leaves)
        state = detach(problem.init(known(hparams)))
        dual_numbers.require_room(state, leaves)
        require_sound(problem, hparams)
        require_functional(problem)
        if self.group is not None:
            require_same_start(self.group, hparams, state, problem.batch(0))
        mine, tangents = (
            self._part(hparams),
            dual_numbers.start(problem, hparams, leaves),
        )
        rollout = Rollout(state, 0, [z[mine.rows] for z in tangents])
        self._prepare(problem, detach(hparams), rollout)
        traced = problem.traced["push", self.compile]
        push = traced.function if isinstance(traced, Recurrence) else traced
        require_agreement(problem, detach(hparams), state, push)
        _require_connected(problem, hparams, self.steps)
        return rollout

    @differentiating
    def estimate(
        self, problem: BilevelProblem, hparams: Hparams, rollout: Rollout
    ) -> tuple[Hypergradient, Rollout]:
        """dE/dλ after `steps` more steps, through all steps since s_0.

        Raises:
            ValueError: an operator has no forward derivative; compiled, a step whose
                operators depend on values of tensors.
        """
        hparams = detach(hparams)
        self._prepare(problem, hparams, rollout)
        directions = dual_numbers.basis(differentiable(hparams))
        mine = self._part(hparams)
        own = [z[mine.rows] for z in directions.values()]
        splits = [z.split(self.chunk or mine.size) for z in (*rollout.carry, *own)]
        parts = []
        for part in zip(*splits, strict=True):
            z, along = part[: len(rollout.carry)], part[len(rollout.carry) :]
            duals = (rollout.state, list(z))
            constants = (hparams, dict(zip(directions, along, strict=True)))
            state, moved = self._advance(problem, duals, constants, rollout.step)
            parts.append(moved)
        carry = [torch.cat(z) for z in zip(*parts, strict=True)]
        count = validation_batch(problem, self.val_share, self._steps_cost(hparams))
        look = outer_loss_of(problem, count, rollout.step // self.steps)
        outer_loss, grads = self._contract(look, hparams, state, carry)
        cost = self.cost(problem, hparams)
        return (
            Hypergradient(outer_loss, grads, cost),
            Rollout(state, rollout.step + self.steps, carry),
        )

    def cost(self, problem: BilevelProblem, hparams: Hparams) -> float:
        """2 per step for each of K tangents, 1 per chunk, and the outer gradient."""
        cost = self._steps_cost(hparams)
        count = validation_batch(problem, self.val_share, cost)
        return cost + outer_loss_cost(problem, count)

    def _steps_cost(self, hparams: Hparams) -> float:
        k = _tangents(hparams)
        chunks = -(-k // (self.chunk or k))
        return (chunks + 2 * k) * self.steps

    def _prepare(
        self, problem: BilevelProblem, hparams: Hparams, rollout: Rollout
    ) -> None:
        """The step of dual numbers, once for a problem.

        Raises:
            ValueError: an operator has no forward derivative.
        """
        kind = ("push", self.compile)
        if kind not in problem.traced:
            directions = dual_numbers.basis(differentiable(hparams))
            one = [z[:1] for z in rollout.carry]
            along = {name: z[:1] for name, z in directions.items()}
            first = problem.batch(rollout.step)
            duals, constants = (rollout.state, one), (hparams, along)
            moves = dual_numbers.data_must_move(problem, duals, constants, first)
            push = dual_numbers.push(problem, moves)
            problem.traced[kind] = Recurrence(push, compiled=self.compile)

    def _part(self, hparams: Hparams) -> Part:
        """Which of the tangents are this rank's."""
        return own_part(_tangents(hparams), self.group, "scalar hyperparameters")

    def _contract(
        self,
        loss: Callable[[State, Hparams], Tensor],
        hparams: Hparams,
        state: State,
        carry: list[Tensor],
    ) -> tuple[Tensor, Tensors]:
        """E and ∇E Z + ∂E/∂λ, one number per scalar of λ."""
        values, rest, merge = partition(state)
        values = [value.detach().requires_grad_() for value in values]
        leaves = differentiable(hparams)
        outer_loss = loss(merge(values, rest), {**hparams, **leaves})
        inputs = [*values, *leaves.values()]
        grads = torch.autograd.grad(outer_loss, inputs, materialize_grads=True)
        along = sum(
            as_real(z).reshape(len(z), -1) @ as_real(g).flatten()
            for g, z in zip(grads[: len(values)], carry, strict=True)
        )
        assert isinstance(along, Tensor)
        through_state = gathered(along, self._part(hparams), self.group)
        sizes = [leaf.numel() for leaf in leaves.values()]
        parts = through_state.split(sizes)
        direct = grads[len(values) :]
        return outer_loss.detach(), {
            name: part.reshape(leaf.shape).to(leaf.dtype) + g
            for (name, leaf), part, g in zip(leaves.items(), parts, direct, strict=True)
        }

    def _advance(
        self,
        problem: BilevelProblem,
        duals: dual_numbers.Duals,
        constants: dual_numbers.Constants,
        t: int,
    ) -> dual_numbers.Duals:
        steps, kind = range(t, t + self.steps), ("push", self.compile)
        traced = problem.traced[kind]
        try:
            if isinstance(traced, Recurrence):
                return traced(duals, constants, map(problem.batch, steps))
        except Untraceable:
            if self.compile:
                raise
            # For good: to find out takes longer than a step.
            problem.traced[kind] = traced.function
        for b in map(problem.batch, steps):
            duals = problem.traced[kind](duals, constants, b)
        return duals


def _tangents(hparams: Hparams) -> int:
    return sum(leaf.numel() for leaf in differentiable(hparams).values())


def _require_connected(problem: BilevelProblem, hparams: Hparams, steps: int) -> None:
    """A tangent that is 0 for ever looks like a true 0: ask reverse mode once.

    The first step and E, and where they do not depend on all of λ the last step, too.
    """
    leaves = differentiable(hparams)
    live = {**hparams, **leaves}
    missing = set(leaves)
    for t in sorted({0, steps - 1}):
        state = problem.step(problem.init(live), live, problem.batch(t))
        ends = [*partition(state)[0], problem.outer_loss(state, live)]
        ends = [end for end in ends if end.requires_grad]
        grads: tuple[Tensor | None, ...] = (None,) * len(leaves)
        if ends:
            ones, inputs = [torch.ones_like(end) for end in ends], list(leaves.values())
            try:
                grads = torch.autograd.grad(ends, inputs, ones, allow_unused=True)
            except RuntimeError:  # no second derivative, which we do not need
                return
        missing -= {n for n, g in zip(leaves, grads, strict=True) if g is not None}
        if not missing:
            return
    raise disconnected([name for name in leaves if name in missing])
