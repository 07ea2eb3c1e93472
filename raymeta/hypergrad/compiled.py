"""Compiled problems: steps, and their derivatives, as machine code."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cached_property
from typing import Any

from torch import Tensor

from raymeta._tree import in_transform
from raymeta.compile.recurrence import Recurrence
from raymeta.modules.micro_batches import require_one_pass
from raymeta.problem import BilevelProblem, Descent, TrainState
from raymeta.types import Batch, Hparams, State, Tensors

Step = Callable[[State, Hparams, Batch], State]


class CompiledStep:
    """Φ and its pullback, one step of each compiled (see `Recurrence`).

    Args:
        eager: Φ as the problem has it.
    """

    def __init__(self, eager: Step) -> None:
        self._eager, self._steps = eager, Recurrence(eager, compiled=True)

    def __call__(self, state: State, hparams: Hparams, batch: Batch) -> State:
        """s_{t+1} from s_t."""
        if in_transform():
            return self._eager(state, hparams, batch)
        return self.unroll(state, hparams, [batch])

    def unroll(self, state: State, hparams: Hparams, batches: Iterable[Batch]) -> State:
        """The state after one step on each batch."""
        return self._steps(state, hparams, batches)


class CompiledDescent(Descent):
    """The same of a `Descent`, whose gradient is compiled by itself, too."""

    @cached_property
    def _eager(self) -> Descent:
        return Descent(self.inner_loss, self.optimizer)

    @cached_property
    def _steps(self) -> CompiledStep:
        return CompiledStep(self._eager)

    @cached_property
    def _slopes(self) -> Recurrence:
        slope: Callable[..., Any] = self._eager.value_and_gradient
        return Recurrence(lambda at, h, b: slope(*at, h, b), compiled=True)

    def value_and_gradient(
        self, params: Tensors, buffers: Tensors, hparams: Hparams, batch: Batch
    ) -> tuple[Tensor, Tensors, Tensors]:
        """The loss, its gradient in the parameters, and the new buffers."""
        if in_transform():
            return super().value_and_gradient(params, buffers, hparams, batch)
        return self._slopes((params, buffers), hparams, [batch])

    def __call__(self, state: TrainState, hparams: Hparams, batch: Batch) -> TrainState:
        """s_{t+1} from s_t."""
        return self._steps(state, hparams, batch)

    def unroll(self, state: State, hparams: Hparams, batches: Iterable[Batch]) -> State:
        """The state after one step on each batch."""
        return self._steps.unroll(state, hparams, batches)


Compiled = CompiledStep | CompiledDescent


def compiled(problem: BilevelProblem, wanted: bool = True) -> BilevelProblem:
    """The problem with compiled steps; itself where that is not wanted.

    Compilation takes seconds at the first step, once per shape of the tensors on this
    machine: a cache on disk (`TORCHINDUCTOR_CACHE_DIR`) serves later processes.

    Raises:
        ValueError: the steps pass micro-batches through.
    """
    if not wanted or isinstance(problem.step, Compiled):
        return problem
    require_one_pass(problem, "compile=True")
    if "compiled" not in problem.traced:
        eager = problem.step
        step: Step = CompiledStep(eager)
        if isinstance(eager, Descent):
            step = CompiledDescent(eager.inner_loss, eager.optimizer)
        problem.traced["compiled"] = replace(problem, step=step)
    return problem.traced["compiled"]
