"""Reverse mode with recomputation: less memory for more time."""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from itertools import islice
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
    Pullback,
    advances,
    binomial,
    even,
)
from raymeta.hypergrad.compiled import compiled
from raymeta.hypergrad.kept_states import Kept, require_folder
from raymeta.hypergrad.memory import parse_bytes, state_bytes
from raymeta.hypergrad.preflight import differentiating, require_sound
from raymeta.hypergrad.resumable import (
    Journal,
    Position,
    fingerprint,
    forgotten,
    require_resumable,
    resumed,
)
from raymeta.problem import BilevelProblem
from raymeta.types import Hparams, State


@dataclass(frozen=True)
class Checkpointed:
    r"""Exact reverse mode that keeps few states and recomputes the others.

    The recursion of `Reverse`, $\alpha_t = \alpha_{t+1} A_{t+1}$ and
    $g \mathrel{+}= \alpha_{t+1} B_{t+1}$, one step after another from the end: each is
    differentiated by itself, from the state before it, and one step's graph is alive.
    States that are not kept are found again from the last kept one before them.

    By default the run is cut into √T segments: their first states are kept, and within
    a segment, which is run again, all; memory O(√T), for at most 2 T steps without
    graph. With `states`, or as many as `memory` has room for, states are kept in the
    binomial order, which recomputes the fewest steps that so many allow; where all T
    have room, as with `segments=1`, none. Each estimate restarts training.

    Attributes:
        steps: T, the length of the run.
        segments: how many segments; ⌈√T⌉ if None; cut to `steps` for shorter runs.
        states: how many states to keep, s_0 among them; excludes `segments`.
        memory: bytes for kept states, a number or text such as "2GB" (of 10⁹) or
            "512MiB"; excludes `segments` and `states`. The state that a step starts
            from, its graph and its result come on top.
        spill: an existing folder, for files of the kept states in the place of memory;
            they are removed at the end.
        resume: whether an estimate that was killed goes on, to the same bits, when it
            is made again: its states stay in `spill`, and beside them, now and then,
            where its backward pass stands. It is known again by λ, s_0, its first and
            last batch, its first step and E after it.
        compile: run the steps and their derivatives as machine code; see `compiled`.

    Raises:
        ValueError: counts below 1 or beyond `steps`; two of `segments`, `states` and
            `memory`; a size that is none; `resume` without `spill`. From `init`:
            `memory` below one state; no folder to spill into; `resume` on several
            ranks, or with states that have more than tensors. From `estimate`: a disk
            that is full.

    Source: Griewank & Walther 2000 (binomial); Chen et al. 2016 (segments).
    """

    steps: int
    segments: int | None = field(default=None, metadata=AMONG_STEPS)
    states: int | None = None
    memory: str | int | None = None
    spill: str | None = None
    resume: bool = False
    compile: bool = False
    continues: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require_settings(self)
        knobs = {name: getattr(self, name) for name in ("segments", "states", "memory")}
        given = {name: value for name, value in knobs.items() if value is not None}
        if len(given) > 1:
            raise ValueError(
                f"Checkpointed needs {' or '.join(given)}, but got "
                f"{', '.join(f'{k}={v!r}' for k, v in given.items())}: leave one out"
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
        if self.memory is not None:
            parse_bytes("memory", self.memory)
        if self.resume and self.spill is None:
            raise ValueError(
                "Checkpointed(resume=True) keeps what it goes on from in a folder, but "
                "got spill=None: give spill="
            )

    @differentiating
    def init(self, problem: BilevelProblem, hparams: Hparams) -> Rollout:
        """Training stands at s_0(λ).

        Raises:
            ValueError: an operator of a step cannot be differentiated twice; `memory`
                has no room for one state; there is no folder to spill into.
        """
        if self.spill is not None:
            require_folder(self.spill)
        require_sound(problem, hparams, through="state")
        if self.compile:
            require_functional(problem)
        rollout = start(problem, hparams)
        self._schedule(rollout.state)
        if self.resume:
            require_resumable(rollout.state)
        return rollout

    @differentiating
    def estimate(
        self, problem: BilevelProblem, hparams: Hparams, rollout: Rollout
    ) -> tuple[Hypergradient, Rollout]:
        """dE(s_T, λ)/dλ of a run of T steps from s_0(λ), whatever the rollout."""
        problem = compiled(problem, self.compile)
        leaves = differentiable(hparams)
        live = {**hparams, **leaves}
        s_0 = problem.init(live)
        adjoint: Adjoint | None = None
        with self._kept(problem, hparams, s_0) as (kept, journal):
            if found := journal.read():
                outer_loss, s_T = found.outer_loss, found.s_T
                adjoint = Adjoint(outer_loss, leaves)
                adjoint.alpha, adjoint.g = found.alpha, found.g
            if 0 not in set(kept):
                kept[0] = detach(s_0)
            done = found.done if found else 0
            for pullback in islice(self._schedule(s_0), done, None):
                before = _reach(problem, hparams, kept, pullback)
                values, rest, merge = partition(before)
                values = [value.detach().requires_grad_() for value in values]
                state = unroll(problem, live, merge(values, rest), pullback.step, 1)
                if adjoint is None:
                    s_T = detach(state)
                    outer_loss = outer_loss_at(problem, hparams)(state, live)
                    adjoint = Adjoint(outer_loss, leaves)
                    adjoint.pull([outer_loss], values)
                    outer_loss = outer_loss.detach()
                else:
                    adjoint.pull(partition(state)[0], values)
                # Two steps' graphs must not be alive at once, and compiled ones live as
                # long as their ends.
                del state
                done += 1
                journal.note(Position(done, adjoint.alpha, adjoint.g, outer_loss, s_T))
        assert adjoint is not None
        adjoint.pull(partition(s_0)[0], [])
        cost = self.cost(problem, hparams)
        return (
            Hypergradient(outer_loss, adjoint.grads(), cost),
            Rollout(s_T, self.steps),
        )

    def cost(self, problem: BilevelProblem, hparams: Hparams) -> float:
        """3 T, 1 for each step without graph, and the outer gradient."""
        s_0 = None if self.memory is None else problem.init(hparams)
        without = advances(self._schedule(s_0))
        return 3 * self.steps + without + estimated_loss_cost(problem)

    def _kept(
        self, problem: BilevelProblem, hparams: Hparams, s_0: State
    ) -> AbstractContextManager[tuple[Kept, Journal]]:
        """Where states are kept, and where it is noted how far the estimate is."""
        if not self.resume:
            return forgotten(self.spill, detach(s_0))
        assert self.spill is not None
        knobs = repr(replace(self, spill=None, resume=False))
        run = fingerprint(problem, hparams, detach(s_0), self.steps, knobs)
        return resumed(self.spill, run, detach(s_0))

    def _schedule(self, s_0: State) -> Iterator[Pullback]:
        states = self.states
        if self.memory is not None:
            room, size = parse_bytes("memory", self.memory), state_bytes(s_0)
            if room < size:
                raise ValueError(
                    f"Checkpointed needs memory for one state, {size:,} bytes here, "
                    f"but got memory={self.memory!r}: give more"
                )
            states = min(self.steps, room // max(1, size))
        if states is not None:
            return binomial(self.steps, states)
        return even(self.steps, self.segments or math.isqrt(self.steps - 1) + 1)


def _reach(
    problem: BilevelProblem, hparams: Hparams, kept: Kept, to: Pullback
) -> State:
    """The state before a step; keeps what is said, drops what is needed no more."""
    t = max(step for step in kept if step <= to.step)  # `origin`, or beyond
    state = kept[t]
    for stop in [stop for stop in (*to.keep, to.step) if stop > t]:
        state = advance(problem, hparams, state, t, stop - t)
        t = stop
        if stop in to.keep:
            kept[stop] = state
    for later in [step for step in kept if step >= to.step]:
        del kept[later]
    return state
