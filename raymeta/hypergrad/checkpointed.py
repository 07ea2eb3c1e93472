"""Reverse mode with recomputation: less memory for more time."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from raymeta._tree import detach, partition
from raymeta.distributed.collectives import require_functional
from raymeta.hypergrad.adjoint import Adjoint
from raymeta.hypergrad.base import (
    AMONG_STEPS,
    Hypergradient,
    Rollout,
    advance,
    differentiable,
    estimated_loss_cost,
    outer_loss_at,
    require_settings,
    start,
    unroll,
)
from raymeta.hypergrad.checkpoint_schedules import (
    Segment,
    binomial,
    even,
    repeated_steps,
)
from raymeta.hypergrad.compiled import compiled
from raymeta.hypergrad.preflight import differentiating, require_sound
from raymeta.problem import BilevelProblem
from raymeta.types import Hparams, State


@dataclass(frozen=True)
class Checkpointed:
    r"""Exact reverse mode that keeps few states and recomputes the others.

    The recursion of `Reverse`, $\alpha_t = \alpha_{t+1} A_{t+1}$ and
    $g \mathrel{+}= \alpha_{t+1} B_{t+1}$, one segment of steps after another from the
    end; a segment's graph is built anew from the last kept state before it.

    By default the run is cut into √T segments, each recomputed once: memory O(√T). With
    `states` it is reversed step by step in the binomial order, which recomputes the
    fewest steps that so many kept states allow. Each estimate restarts training.

    Attributes:
        steps: T, the length of the run.
        segments: how many segments; ⌈√T⌉ if None; cut to `steps` for shorter runs.
        states: how many states to keep, s_0 among them; excludes `segments`.
        compile: run the steps and their derivatives as machine code; see `compiled`.

    Source: Griewank & Walther 2000 (binomial); Chen et al. 2016 (segments).
    """

    steps: int
    segments: int | None = field(default=None, metadata=AMONG_STEPS)
    states: int | None = None
    compile: bool = False
    continues: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require_settings(self)
        if self.segments is not None and self.states is not None:
            raise ValueError(
                "Checkpointed needs segments or states, but got both "
                f"(segments={self.segments}, states={self.states}): leave one out"
            )
        if self.segments is not None and not 1 <= self.segments <= self.steps:
            raise ValueError(
                "Checkpointed needs 1 <= segments <= steps, but got segments="
                f"{self.segments}, steps={self.steps}: leave segments out for √steps"
            )
        if self.states is not None and self.states < 1:
            raise ValueError(
                f"Checkpointed needs states >= 1, but got states={self.states}: "
                "states=1 keeps s_0 alone"
            )

    @differentiating
    def init(self, problem: BilevelProblem, hparams: Hparams) -> Rollout:
        """Training stands at s_0(λ).

        Raises:
            ValueError: an operator of a step cannot be differentiated twice.
        """
        require_sound(problem, hparams, through="state")
        if self.compile:
            require_functional(problem)
        return start(problem, hparams)

    @differentiating
    def estimate(
        self, problem: BilevelProblem, hparams: Hparams, rollout: Rollout
    ) -> tuple[Hypergradient, Rollout]:
        """dE(s_T, λ)/dλ of a run of T steps from s_0(λ), whatever the rollout."""
        problem = compiled(problem, self.compile)
        leaves = differentiable(hparams)
        live = {**hparams, **leaves}
        s_0 = problem.init(live)
        kept: dict[int, State] = {0: detach(s_0)}
        adjoint: Adjoint | None = None
        for segment in self._schedule():
            before = _reach(problem, hparams, kept, segment)
            values, rest, merge = partition(before)
            values = [value.detach().requires_grad_() for value in values]
            length = segment.end - segment.start
            state = unroll(problem, live, merge(values, rest), segment.start, length)
            if adjoint is None:
                s_T = detach(state)
                outer_loss = outer_loss_at(problem, hparams)(state, live)
                adjoint = Adjoint(outer_loss, leaves)
                adjoint.pull([outer_loss], values)
                outer_loss = outer_loss.detach()
            else:
                adjoint.pull(partition(state)[0], values)
            # Two segments' graphs must not be alive at once, and compiled ones live
            # as long as their ends.
            del state
        assert adjoint is not None
        adjoint.pull(partition(s_0)[0], [])
        cost = self.cost(problem, hparams)
        return (
            Hypergradient(outer_loss, adjoint.grads(), cost),
            Rollout(s_T, self.steps),
        )

    def cost(self, problem: BilevelProblem, hparams: Hparams) -> float:
        """3 T, 1 for each step run to get back to a state, and the outer gradient."""
        again = repeated_steps(self._schedule())
        return 3 * self.steps + again + estimated_loss_cost(problem)

    def _schedule(self) -> Iterator[Segment]:
        if self.states is not None:
            return binomial(self.steps, self.states)
        return even(self.steps, self.segments or math.isqrt(self.steps - 1) + 1)


def _reach(
    problem: BilevelProblem, hparams: Hparams, kept: dict[int, State], segment: Segment
) -> State:
    """s_start of a segment; keeps what it says, drops what is needed no more."""
    t = segment.origin
    state = kept[t]
    for stop in (*segment.keep, segment.start):
        state = advance(problem, hparams, state, t, stop - t)
        t = stop
        if stop in segment.keep:
            kept[stop] = state
    for later in [step for step in kept if step >= segment.start]:
        del kept[later]
    return state
